// Command ocicni calls a CNI network through CRI-O's library, as CRI-O does:
//
//	ocicni VERB CONF_DIR CACHE_DIR BIN_DIR [NAMESPACE/NAME/ID/NETNS [key=value]…]…
//
// VERB is add, check, del, gc or status. gc takes every pod that is still valid, status none, the others one. A key is ip, mac,
// hostPort (HOST:CONTAINER/PROTOCOL), ingress or egress (bit/s). Results are printed as JSON, one attachment a line.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/cri-o/ocicni/pkg/ocicni"
)

// setting puts one key=value of the command line into what the pod asks of its network.
func setting(config *ocicni.RuntimeConfig, key, value string) (err error) {
	if config.Bandwidth == nil && (key == "ingress" || key == "egress") {
		config.Bandwidth = &ocicni.BandwidthConfig{}
	}
	switch key {
	case "ip":
		config.IP = value
	case "mac":
		config.MAC = value
	case "ingress":
		config.Bandwidth.IngressRate, err = strconv.ParseUint(value, 10, 64)
		config.Bandwidth.IngressBurst = config.Bandwidth.IngressRate
	case "egress":
		config.Bandwidth.EgressRate, err = strconv.ParseUint(value, 10, 64)
		config.Bandwidth.EgressBurst = config.Bandwidth.EgressRate
	case "hostPort":
		mapping := ocicni.PortMapping{}
		_, err = fmt.Sscanf(strings.Replace(value, "/", " ", 1), "%d:%d %s", &mapping.HostPort, &mapping.ContainerPort, &mapping.Protocol)
		config.PortMappings = append(config.PortMappings, mapping)
	default:
		err = fmt.Errorf("unknown key %q", key)
	}
	return err
}

// pods reads the pods of the command line; network is the name their settings are for.
func pods(words []string, network string) ([]*ocicni.PodNetwork, error) {
	var found []*ocicni.PodNetwork
	for _, word := range words {
		if key, value, is := strings.Cut(word, "="); is && len(found) > 0 {
			last := found[len(found)-1]
			config := last.RuntimeConfig[network]
			if err := setting(&config, key, value); err != nil {
				return nil, fmt.Errorf("%s: %w", word, err)
			}
			last.RuntimeConfig[network] = config
			continue
		}
		part := strings.SplitN(word, "/", 4)
		if len(part) != 4 {
			return nil, fmt.Errorf("%q is not NAMESPACE/NAME/ID/NETNS", word)
		}
		found = append(found, &ocicni.PodNetwork{
			Namespace: part[0], Name: part[1], ID: part[2], UID: part[2], NetNS: part[3],
			RuntimeConfig: map[string]ocicni.RuntimeConfig{network: {}},
		})
	}
	return found, nil
}

func call(words []string) error {
	if len(words) < 4 {
		return errors.New("usage: ocicni VERB CONF_DIR CACHE_DIR BIN_DIR [NAMESPACE/NAME/ID/NETNS [key=value]…]…")
	}
	plugin, err := ocicni.InitCNINoInotify("", words[1], words[2], words[3])
	if err != nil {
		return err
	}
	defer func() { _ = plugin.Shutdown() }()
	limited, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	subjects, err := pods(words[4:], plugin.GetDefaultNetworkName())
	if err != nil {
		return err
	}
	switch verb := words[0]; {
	case verb == "status":
		return plugin.StatusWithContext(limited)
	case verb == "gc":
		return plugin.GC(limited, subjects)
	case len(subjects) != 1:
		return fmt.Errorf("%s takes one pod, not %d", verb, len(subjects))
	case verb == "del":
		return plugin.TearDownPodWithContext(limited, *subjects[0])
	case verb == "add" || verb == "check":
		ask := plugin.SetUpPodWithContext
		if verb == "check" {
			ask = plugin.GetPodNetworkStatusWithContext
		}
		results, err := ask(limited, *subjects[0])
		for _, result := range results {
			if line, problem := json.Marshal(result.Result); problem == nil {
				fmt.Println(string(line))
			}
		}
		return err
	default:
		return fmt.Errorf("unknown verb %q", verb)
	}
}

func main() {
	if err := call(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
