package cluster

import (
	"context"
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// nodePage is how many nodes one call lists.
const nodePage = 500

// NodeInstances lists the cloud instances that the cluster has nodes for, by the nodes' spec.providerID. A node without
// one that can be read is an error: it may be any instance. The answer is complete or there is none.
func NodeInstances(ctx context.Context, to *rest.Config) (map[string]bool, error) {
	client, err := newClient(to)
	if err != nil {
		return nil, err
	}
	return nodeInstances(ctx, client)
}

func nodeInstances(ctx context.Context, client kubernetes.Interface) (map[string]bool, error) {
	ids := map[string]bool{}
	for next := ""; ; {
		page, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{Limit: nodePage, Continue: next})
		if err != nil {
			return nil, fmt.Errorf("list nodes: %w", err)
		}
		for _, node := range page.Items {
			id, ok := instanceID(node.Spec.ProviderID)
			if !ok {
				return nil, fmt.Errorf("node %s: spec.providerID: %q: it does not name an instance, such as cn-hangzhou.i-bp1abc", node.Name, node.Spec.ProviderID)
			}
			ids[id] = true
		}
		if next = page.Continue; next == "" {
			return ids, nil
		}
	}
}

// instanceID reads "cn-hangzhou.i-bp1abc", with or without a scheme before it (cloud-provider-alibaba-cloud).
func instanceID(providerID string) (string, bool) {
	last := providerID[strings.LastIndexAny(providerID, "./")+1:]
	return last, strings.HasPrefix(last, "i-")
}
