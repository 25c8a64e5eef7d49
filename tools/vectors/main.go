// Writes test vectors for patches, server-side apply and protobuf bodies, computed by Kubernetes' own libraries.
// A developer's program: `cd tools/vectors && go run .` prints them; tests/unit/apiserver/vectors.json is that, one case a line.
package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/util/managedfields/managedfieldstest"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/applyconfigurations"
	"k8s.io/client-go/kubernetes/scheme"
)

type object = map[string]any

type strategicCase struct {
	Kind, Object, Patch string
}

var strategicCases = []strategicCase{
	{"Pod", `{"spec":{"containers":[{"name":"a","image":"x"},{"name":"b","image":"y"}]}}`, `{"spec":{"containers":[{"name":"b","image":"z"}]}}`},
	{"Pod", `{"spec":{"containers":[{"name":"a","image":"x"}]}}`, `{"spec":{"containers":[{"name":"b","image":"z"}]}}`},
	{"Pod", `{"spec":{"containers":[{"name":"a"},{"name":"b"},{"name":"c"}]}}`, `{"spec":{"$setElementOrder/containers":[{"name":"c"},{"name":"d"},{"name":"a"}],"containers":[{"name":"d","image":"new"}]}}`},
	{"Pod", `{"spec":{"containers":[{"name":"a"},{"name":"b"}]}}`, `{"spec":{"containers":[{"name":"a","$patch":"delete"}]}}`},
	{"Pod", `{"spec":{"containers":[{"name":"a"},{"name":"b"}]}}`, `{"spec":{"containers":[{"$patch":"replace"},{"name":"z","image":"q"}]}}`},
	{"Pod", `{"metadata":{"labels":{"a":"1","b":"2"}}}`, `{"metadata":{"labels":{"a":null,"c":"3"}}}`},
	{"Pod", `{"metadata":{"labels":{"a":"1"}}}`, `{"metadata":{"labels":{"$patch":"replace","z":"9"}}}`},
	{"Pod", `{"metadata":{"labels":{"a":"1"}}}`, `{"metadata":{"labels":{"$patch":"delete"}}}`},
	{"Pod", `{"metadata":{"finalizers":["a","b","c"]}}`, `{"metadata":{"$deleteFromPrimitiveList/finalizers":["b"],"$setElementOrder/finalizers":["c","a","d"],"finalizers":["d"]}}`},
	{"Pod", `{"metadata":{"finalizers":["a","b"]}}`, `{"metadata":{"finalizers":["b","c"]}}`},
	{"Pod", `{"spec":{"volumes":[{"name":"v","emptyDir":{}}]}}`, `{"spec":{"volumes":[{"$retainKeys":["name","hostPath"],"name":"v","hostPath":{"path":"/x"}}]}}`},
	{"Pod", `{"spec":{"tolerations":[{"key":"a"}]}}`, `{"spec":{"tolerations":[{"key":"b"}]}}`},
	{"Pod", `{"spec":{"containers":[{"name":"a","ports":[{"containerPort":80},{"containerPort":81}],"env":[{"name":"A","value":"1"}]}]}}`, `{"spec":{"containers":[{"name":"a","ports":[{"containerPort":81,"name":"x"}],"env":[{"name":"A","value":null,"valueFrom":{"fieldRef":{"fieldPath":"metadata.name"}}},{"name":"B","value":"2"}]}]}}`},
	{"Pod", `{}`, `{"spec":{"containers":[{"name":"a","image":null,"command":["x"]}],"nodeName":null}}`},
	{"Pod", `{"spec":{"containers":[{"name":"a","args":["1","2"]}]}}`, `{"spec":{"containers":[{"name":"a","args":["3"]}]}}`},
	{"Pod", `{"spec":{"nodeSelector":{"a":"b"}}}`, `{"spec":{"nodeSelector":{"c":"d"}}}`},
	{"Pod", `{"spec":{"containers":[{"name":"a","image":"x"}]}}`, `{"spec":{"containers":[{"image":"z"}]}}`},
	{"Pod", `{"spec":{"containers":[{"name":"a"}]}}`, `{"spec":{"containers":[{"name":"a","$patch":"bogus"}]}}`},
	{"Pod", `{"spec":{"volumes":[{"name":"v"}]}}`, `{"spec":{"volumes":[{"$retainKeys":["name"],"name":"v","hostPath":{"path":"/x"}}]}}`},
	{"Pod", `{"spec":{"containers":[{"name":"a"}]}}`, `{"spec":{"$setElementOrder/containers":[{"name":"a"}],"containers":[{"name":"q"}]}}`},
	{"Deployment", `{"spec":{"strategy":{"type":"RollingUpdate","rollingUpdate":{"maxSurge":1}}}}`, `{"spec":{"strategy":{"$retainKeys":["type"],"type":"Recreate"}}}`},
	{"Deployment", `{"spec":{"template":{"spec":{"containers":[{"name":"a","image":"x"}]}}}}`, `{"spec":{"replicas":3,"template":{"metadata":{"annotations":{"k":"v"}},"spec":{"$setElementOrder/containers":[{"name":"a"}],"containers":[{"name":"a","image":"y"}]}}}}`},
	{"Service", `{"spec":{"ports":[{"port":80,"protocol":"TCP","targetPort":80},{"port":443}]}}`, `{"spec":{"ports":[{"port":80,"targetPort":8080}]}}`},
	{"Service", `{"spec":{"ports":[{"port":80},{"port":443}]}}`, `{"spec":{"$setElementOrder/ports":[{"port":443},{"port":9}],"ports":[{"port":9,"name":"n"},{"$patch":"delete","port":80}]}}`},
	{"NetworkPolicy", `{"spec":{"ingress":[{"from":[{"podSelector":{}}]}],"policyTypes":["Ingress"]}}`, `{"spec":{"ingress":[{}],"policyTypes":["Ingress","Egress"]}}`},
}

func strategic() []object {
	kinds := map[string]any{"Pod": corev1.Pod{}, "Deployment": appsv1.Deployment{}, "Service": corev1.Service{}, "NetworkPolicy": networkingv1.NetworkPolicy{}}
	var out []object
	for _, each := range strategicCases {
		entry := object{"kind": each.Kind, "object": json.RawMessage(each.Object), "patch": json.RawMessage(each.Patch)}
		result, err := strategicpatch.StrategicMergePatch([]byte(each.Object), []byte(each.Patch), kinds[each.Kind])
		if err != nil {
			entry["error"] = err.Error()
		} else {
			entry["result"] = json.RawMessage(result)
		}
		out = append(out, entry)
	}
	return out
}

type step struct {
	Verb, Manager, Object string
	Force                 bool
}

type applyCase struct {
	APIVersion, Kind string
	Steps            []step
}

const deployment = `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"w","namespace":"d","labels":{"a":"b"}},"spec":{"replicas":2,"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"x","ports":[{"containerPort":80}]}]}}}}`

func change(text string, pairs ...string) string {
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(text, pairs[i]) {
			panic(pairs[i])
		}
		text = strings.Replace(text, pairs[i], pairs[i+1], 1)
	}
	return text
}

const service = `{"apiVersion":"v1","kind":"Service","metadata":{"name":"s","namespace":"d"},"spec":{"selector":{"a":"b"},"ports":[{"name":"h","port":80,"protocol":"TCP"},{"name":"s","port":443,"protocol":"TCP"}]}}`

var applyCases = []applyCase{
	{"apps/v1", "Deployment", []step{{"apply", "kubectl", deployment, false}}},
	{"apps/v1", "Deployment", []step{{"apply", "kubectl", deployment, false}, {"apply", "kubectl", change(deployment, `,"labels":{"a":"b"}},"spec":{"replicas":2,`, `},"spec":{`), false}}},
	{"apps/v1", "Deployment", []step{{"apply", "kubectl", deployment, false}, {"update", "hpa", change(deployment, `"replicas":2`, `"replicas":5`), false}, {"apply", "kubectl", deployment, false}}},
	{"apps/v1", "Deployment", []step{{"apply", "kubectl", deployment, false}, {"update", "hpa", change(deployment, `"replicas":2`, `"replicas":5`), false}, {"apply", "kubectl", deployment, true}}},
	{"apps/v1", "Deployment", []step{{"apply", "one", deployment, false}, {"apply", "two", deployment, false}, {"apply", "one", change(deployment, `"replicas":2,`, ``), false}, {"apply", "two", change(deployment, `"replicas":2,`, ``), false}}},
	{"apps/v1", "Deployment", []step{{"apply", "one", deployment, false}, {"apply", "two", change(deployment, `"image":"x"`, `"image":"y"`, `"replicas":2`, `"replicas":3`), false}}},
	{"apps/v1", "Deployment", []step{{"apply", "one", change(deployment, `"containerPort":80}]}`, `"containerPort":80}]},{"name":"e","image":"i"}`), false}, {"apply", "one", deployment, false}}},
	{"apps/v1", "Deployment", []step{{"apply", "one", change(deployment, `"containerPort":80}]}`, `"containerPort":80}]},{"name":"e","image":"i"}`), false}, {"update", "two", change(deployment, `"containerPort":80}]}`, `"containerPort":80}]},{"name":"e","image":"changed"}`), false}, {"apply", "one", deployment, false}}},
	{"apps/v1", "Deployment", []step{{"apply", "one", change(deployment, `"replicas":2,`, `"replicas":2,"strategy":{"type":"Recreate"},`), false}, {"apply", "one", deployment, false}}},
	{"apps/v1", "Deployment", []step{{"update", "creator", deployment, false}}},
	{"apps/v1", "Deployment", []step{{"update", "creator", deployment, false}, {"update", "other", change(deployment, `"labels":{"a":"b"}},"spec":{"replicas":2`, `"labels":{"a":"c","n":"m"}},"spec":{"replicas":7`), false}, {"update", "third", change(deployment, `"ports":[{"containerPort":80}]`, `"ports":[{"containerPort":81}]`), false}}},
	{"apps/v1", "Deployment", []step{{"update", "creator", deployment, false}, {"apply", "kubectl", deployment, false}}},
	{"v1", "Service", []step{{"apply", "one", service, false}, {"apply", "two", change(service, `{"name":"h","port":80,"protocol":"TCP"},`, `{"name":"n","port":99,"protocol":"TCP"},`), false}}},
	{"v1", "Service", []step{{"apply", "one", service, false}, {"apply", "one", change(service, `{"name":"h","port":80,"protocol":"TCP"},{"name":"s","port":443,"protocol":"TCP"}`, `{"name":"s","port":443,"protocol":"TCP"},{"name":"h","port":80,"protocol":"TCP"}`), false}}},
	{"v1", "Service", []step{{"apply", "one", change(service, `"metadata":{`, `"metadata":{"finalizers":["x/a","x/b"],"annotations":{"k":"v"},`), false}, {"apply", "two", change(service, `"metadata":{`, `"metadata":{"finalizers":["x/c","x/b"],`), false}, {"apply", "one", service, false}}},
	{"v1", "ConfigMap", []step{{"apply", "one", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c","namespace":"d"},"data":{"a":"1","b":"2"}}`, false}, {"update", "edit", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c","namespace":"d"},"data":{"a":"9"}}`, false}, {"apply", "one", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c","namespace":"d"},"data":{"b":"2"}}`, true}}},
}

func decode(text string) *unstructured.Unstructured {
	obj := object{}
	if err := json.Unmarshal([]byte(text), &obj); err != nil {
		panic(text)
	}
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON([]byte(text)); err != nil {
		panic(err)
	}
	return u
}

func typed(u *unstructured.Unstructured) runtime.Object {
	obj, err := scheme.Scheme.New(u.GroupVersionKind())
	if err != nil {
		panic(err)
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, obj); err != nil {
		panic(err)
	}
	obj.GetObjectKind().SetGroupVersionKind(u.GroupVersionKind())
	return obj
}

func applies() []object {
	var out []object
	for _, each := range applyCases {
		gv, _ := schema.ParseGroupVersion(each.APIVersion)
		manager := managedfieldstest.NewTestFieldManager(applyconfigurations.NewTypeConverter(scheme.Scheme), gv.WithKind(each.Kind))
		var steps []object
		for _, s := range each.Steps {
			entry := object{"verb": s.Verb, "manager": s.Manager, "object": json.RawMessage(s.Object), "force": s.Force}
			var err error
			if s.Verb == "apply" {
				err = manager.Apply(decode(s.Object), s.Manager, s.Force)
			} else {
				err = manager.Update(typed(decode(s.Object)), s.Manager)
			}
			if err != nil {
				entry["error"] = err.Error()
			}
			live, _ := json.Marshal(manager.Live())
			entry["live"] = json.RawMessage(live)
			steps = append(steps, entry)
		}
		out = append(out, object{"apiVersion": each.APIVersion, "kind": each.Kind, "steps": steps})
	}
	return out
}

var protobufCases = []string{
	deployment, service,
	`{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"n"}}`,
	`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"},"data":{"a":"b","e":""},"binaryData":{"x":"AAEC"},"immutable":false}`,
	`{"apiVersion":"v1","kind":"Secret","metadata":{"name":"c"},"data":{"a":"aGVsbG8="},"type":"Opaque"}`,
	`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","creationTimestamp":"2026-01-02T03:04:05Z","ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"n","uid":"u","controller":false}]},"spec":{"containers":[{"name":"c","image":"i","env":[{"name":"A","value":""},{"name":"B","valueFrom":{"secretKeyRef":{"name":"s","key":"k","optional":true}}}],"envFrom":[{"configMapRef":{"name":"cm"}}],"resources":{"limits":{"cpu":"500m","memory":"1Gi"}},"livenessProbe":{"httpGet":{"path":"/","port":"http"},"periodSeconds":3},"readinessProbe":{"tcpSocket":{"port":80}},"securityContext":{"privileged":false,"runAsUser":0}}],"volumes":[{"name":"v","emptyDir":{}},{"name":"w","configMap":{"name":"m","items":[{"key":"a","path":"b","mode":0}]}},{"name":"t","projected":{"sources":[{"serviceAccountToken":{"path":"token","expirationSeconds":3607}}]}}],"terminationGracePeriodSeconds":0,"hostNetwork":true,"tolerations":[{"operator":"Exists","tolerationSeconds":30}]},"status":{"phase":"Running","podIPs":[{"ip":"10.0.0.1"}],"startTime":"2026-01-02T03:04:05Z"}}`,
	`{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{"name":"np"},"spec":{"podSelector":{},"ingress":[{"from":[{"podSelector":{"matchExpressions":[{"key":"a","operator":"In","values":["b","c"]}]}},{"ipBlock":{"cidr":"10.0.0.0/8","except":["10.1.0.0/16"]}}],"ports":[{"port":80,"endPort":90},{"port":"web"}]}],"policyTypes":["Ingress"]}}`,
	`{"apiVersion":"coordination.k8s.io/v1","kind":"Lease","metadata":{"name":"l"},"spec":{"holderIdentity":"h","leaseDurationSeconds":40,"renewTime":"2026-01-02T03:04:05.678901Z"}}`,
	`{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRole","metadata":{"name":"r"},"rules":[{"verbs":["get"],"apiGroups":[""],"resources":["pods"]}]}`,
	`{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{"audiences":["a"],"expirationSeconds":600}}`,
	`{"apiVersion":"authorization.k8s.io/v1","kind":"SelfSubjectAccessReview","spec":{"resourceAttributes":{"verb":"get","resource":"pods","namespace":"d"}}}`,
	`{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"p"},"deleteOptions":{"gracePeriodSeconds":5,"preconditions":{"uid":"u"}}}`,
	`{"apiVersion":"apps/v1","kind":"ControllerRevision","metadata":{"name":"r"},"data":{"spec":{"x":[1,2]}},"revision":3}`,
	`{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{"name":"e","managedFields":[{"manager":"m","operation":"Update","fieldsType":"FieldsV1","fieldsV1":{"f:endpoints":{}}}]},"addressType":"IPv4","endpoints":[{"addresses":["10.0.0.1"],"conditions":{"ready":false}}],"ports":[{"name":"","port":80,"protocol":"TCP"}]}`,
	`{"apiVersion":"batch/v1","kind":"Job","metadata":{"name":"j"},"spec":{"completions":1,"template":{"spec":{"containers":[{"name":"c","image":"i"}],"restartPolicy":"Never"}}}}`,
}

func protobufs() []object {
	serializer := protobuf.NewSerializer(scheme.Scheme, scheme.Scheme)
	var out []object
	for _, text := range protobufCases {
		obj := typed(decode(text))
		var body bytes.Buffer
		if err := serializer.Encode(obj, &body); err != nil {
			panic(err)
		}
		plain, err := json.Marshal(obj)
		if err != nil {
			panic(err)
		}
		out = append(out, object{"body": base64.StdEncoding.EncodeToString(body.Bytes()), "object": json.RawMessage(plain)})
	}
	return out
}


func main() {
	found := object{"strategic": strategic(), "apply": applies(), "protobuf": protobufs()}
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(found); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
