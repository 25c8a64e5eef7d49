// Command cri asks a container runtime one question of the CRI: `cri SOCKET METHOD [JSON]` prints the answer as JSON.
// METHOD is one of RuntimeService's (Status, RunPodSandbox, StopPodSandbox, …), JSON its request.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func ask(socket, name, text string) (proto.Message, error) {
	service := cri.File_staging_src_k8s_io_cri_api_pkg_apis_runtime_v1_api_proto.Services().ByName("RuntimeService")
	method := service.Methods().ByName(protoreflect.Name(name))
	if method == nil {
		return nil, fmt.Errorf("the CRI has no method %s", name)
	}
	request, answer := dynamicpb.NewMessage(method.Input()), dynamicpb.NewMessage(method.Output())
	if err := protojson.Unmarshal([]byte(text), request); err != nil {
		return nil, err
	}
	connection, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	limited, stop := context.WithTimeout(context.Background(), 60*time.Second)
	defer stop()
	path := "/" + string(service.FullName()) + "/" + name
	return answer, connection.Invoke(limited, path, request, answer)
}

func main() {
	text := "{}"
	if len(os.Args) > 3 {
		text = os.Args[3]
	}
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: cri SOCKET METHOD [JSON]")
		os.Exit(2)
	}
	answer, err := ask(os.Args[1], os.Args[2], text)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(protojson.Format(answer))
}
