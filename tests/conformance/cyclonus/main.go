// Command cyclonus prints the cases that cyclonus generates and what its matcher says of them, one step of a case a line:
//
//	{"case", "step", "tags", "objects": [Namespace, Pod and NetworkPolicy…],
//	 "cells": [["x/a", "y/b", "TCP", 80, egress allowed, ingress allowed], …]}
//
// Nothing is asked of a cluster: its mock stands in for one.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"sort"

	"github.com/mattfenwick/cyclonus/pkg/connectivity"
	"github.com/mattfenwick/cyclonus/pkg/connectivity/probe"
	"github.com/mattfenwick/cyclonus/pkg/generator"
	"github.com/mattfenwick/cyclonus/pkg/kube"
	"github.com/mattfenwick/cyclonus/pkg/matcher"
	v1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

type step struct {
	Case    string   `json:"case"`
	Step    int      `json:"step"`
	Tags    []string `json:"tags"`
	Objects []any    `json:"objects"`
	Cells   [][6]any `json:"cells"`
}

func must[T any](value T, err error) T {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return value
}

func newState() *connectivity.TestCaseState {
	mock := kube.NewMockKubernetes(1)
	protocols := []v1.Protocol{v1.ProtocolTCP, v1.ProtocolUDP, v1.ProtocolSCTP}
	resources := must(probe.NewDefaultResources(mock, []string{"x", "y", "z"}, []string{"a", "b", "c"}, []int{80, 81}, protocols, nil, 1, false, ""))
	return &connectivity.TestCaseState{Kubernetes: mock, Resources: resources, Policies: []*networkingv1.NetworkPolicy{}}
}

func act(state *connectivity.TestCaseState, action *generator.Action) error {
	switch {
	case action.CreatePolicy != nil:
		return state.CreatePolicy(action.CreatePolicy.Policy)
	case action.UpdatePolicy != nil:
		return state.UpdatePolicy(action.UpdatePolicy.Policy)
	case action.DeletePolicy != nil:
		return state.DeletePolicy(action.DeletePolicy.Namespace, action.DeletePolicy.Name)
	case action.CreateNamespace != nil:
		return state.CreateNamespace(action.CreateNamespace.Namespace, action.CreateNamespace.Labels)
	case action.SetNamespaceLabels != nil:
		return state.SetNamespaceLabels(action.SetNamespaceLabels.Namespace, action.SetNamespaceLabels.Labels)
	case action.DeleteNamespace != nil:
		return state.DeleteNamespace(action.DeleteNamespace.Namespace)
	case action.ReadNetworkPolicies != nil:
		return state.ReadPolicies(action.ReadNetworkPolicies.Namespaces)
	case action.CreatePod != nil:
		return state.CreatePod(action.CreatePod.Namespace, action.CreatePod.Pod, action.CreatePod.Labels)
	case action.SetPodLabels != nil:
		return state.SetPodLabels(action.SetPodLabels.Namespace, action.SetPodLabels.Pod, action.SetPodLabels.Labels)
	case action.DeletePod != nil:
		return state.DeletePod(action.DeletePod.Namespace, action.DeletePod.Pod)
	}
	return fmt.Errorf("an action of no kind that is known")
}

func objects(state *connectivity.TestCaseState) []any {
	var found []any
	for _, name := range sorted(state.Resources.Namespaces) {
		namespace := probe.KubeNamespace(name, state.Resources.Namespaces[name])
		namespace.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"}
		found = append(found, namespace)
	}
	for _, each := range state.Resources.Pods {
		pod := each.KubePod()
		pod.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}
		pod.Status = v1.PodStatus{Phase: v1.PodRunning, PodIP: each.IP, PodIPs: []v1.PodIP{{IP: each.IP}}}
		found = append(found, pod)
	}
	for _, each := range state.Policies {
		policy := each.DeepCopy()
		policy.TypeMeta = metav1.TypeMeta{APIVersion: "networking.k8s.io/v1", Kind: "NetworkPolicy"}
		found = append(found, policy)
	}
	return found
}

func sorted[T any](from map[string]T) []string {
	var names []string
	for name := range from {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

func main() {
	builder := &probe.JobBuilder{TimeoutSeconds: 1}
	podIP := must(newState().Resources.GetPod("z", "c")).IP
	cases := generator.NewTestCaseGenerator(true, podIP, []string{"x", "y", "z"}, nil, nil).GenerateAllTestCases()
	out := json.NewEncoder(os.Stdout)
	for number, each := range cases {
		state := newState()
		for at, one := range each.Steps {
			for _, action := range one.Actions {
				must(0, act(state, action))
			}
			tags := each.Tags.Keys()
			sort.Strings(tags)
			line := step{fmt.Sprintf("%d: %s", number, each.Description), at, tags, objects(state), nil}
			policy := matcher.BuildNetworkPolicies(true, state.Policies)
			for _, job := range builder.GetJobsForProbeConfig(state.Resources, one.Probe).Valid {
				verdict := policy.IsTrafficAllowed(job.Traffic())
				line.Cells = append(line.Cells, [6]any{job.FromKey, job.ToKey, job.Protocol, job.ResolvedPort, verdict.Egress.IsAllowed(), verdict.Ingress.IsAllowed()})
			}
			must(0, out.Encode(line))
		}
	}
}
