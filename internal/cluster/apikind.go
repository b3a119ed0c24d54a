package cluster

import (
	"context"
	"iter"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

const (
	everywhere = metav1.NamespaceAll

	versionGateway     = gatewayGroup + "/v1"
	versionDNSEndpoint = "externaldns.k8s.io/v1alpha1"
)

// watches are the kinds to follow.
func (s *APISource) watches() []*watched {
	if s.publish == 0 {
		list := []*watched{s.watchNamespaces(), s.watchSlices(), s.watchServices()}
		if s.node != "" {
			list = append(list, s.watchPods(selectField("spec.nodeName", s.node)), s.watchNodes(selectField("metadata.name", s.node)), s.watchServiceCIDRs())
		}
		return list
	}
	var list []*watched
	for kind, watches := range map[Kind][]func() *watched{
		Services:   {s.watchServices, s.watchSlices},
		Namespaces: {s.watchNamespaces},
		Pods:       {func() *watched { return s.watchPods("") }},
		Nodes:      {func() *watched { return s.watchNodes("") }},
		Ingresses:  {s.watchIngresses},
		HTTPRoutes: {func() *watched {
			return s.watchCustom(kindHTTPRoute, gatewayResource("httproutes"), func(s *Snapshot) iter.Seq[Name] { return keys(s.routes) })
		}},
		Gateways: {func() *watched {
			return s.watchCustom(kindGateway, gatewayResource("gateways"), func(s *Snapshot) iter.Seq[Name] { return keys(s.gateways) })
		}},
		DNSEndpoints: {func() *watched {
			return s.watchCustom(kindDNSEndpoint, schema.GroupVersionResource{Group: "externaldns.k8s.io", Version: "v1alpha1", Resource: "dnsendpoints"}, func(s *Snapshot) iter.Seq[Name] { return keys(s.endpoints) })
		}},
	} {
		for _, watch := range watches {
			if s.publish.has(kind) {
				list = append(list, watch())
			}
		}
	}
	return list
}

func gatewayResource(name string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: gatewayGroup, Version: "v1", Resource: name}
}

func (s *APISource) watchServices() *watched {
	api := s.client.CoreV1().Services(everywhere)
	return &watched{
		kind: kindService, object: &corev1.Service{}, list: listerWatcher(s.client, "", api.List, api.Watch),
		names: func(s *Snapshot) iter.Seq[Name] { return keys(s.services) },
	}
}

func (s *APISource) watchSlices() *watched {
	api := s.client.DiscoveryV1().EndpointSlices(everywhere)
	return &watched{
		kind: kindSlice, object: &discoveryv1.EndpointSlice{}, list: listerWatcher(s.client, "", api.List, api.Watch),
		names: func(s *Snapshot) iter.Seq[Name] { return keys(s.slices) },
	}
}

func (s *APISource) watchPods(selector string) *watched {
	api := s.client.CoreV1().Pods(everywhere)
	return &watched{
		kind: kindPod, object: &corev1.Pod{}, list: listerWatcher(s.client, selector, api.List, api.Watch),
		names: func(s *Snapshot) iter.Seq[Name] { return keys(s.pods) },
	}
}

func (s *APISource) watchNamespaces() *watched {
	api := s.client.CoreV1().Namespaces()
	return &watched{
		kind: kindNamespace, object: &corev1.Namespace{}, list: listerWatcher(s.client, "", api.List, api.Watch),
		names: func(s *Snapshot) iter.Seq[Name] {
			return func(yield func(Name) bool) {
				for name := range s.namespaces.all() {
					if !yield(Name{Name: name}) {
						return
					}
				}
			}
		},
	}
}

func (s *APISource) watchNodes(selector string) *watched {
	api := s.client.CoreV1().Nodes()
	return &watched{
		kind: kindNode, object: &corev1.Node{}, list: listerWatcher(s.client, selector, api.List, api.Watch),
		names: func(s *Snapshot) iter.Seq[Name] { return keys(s.nodes) },
	}
}

// watchServiceCIDRs makes nothing wait: Services are served the same without, as by an agent whose role may not read them.
func (s *APISource) watchServiceCIDRs() *watched {
	api := s.client.NetworkingV1().ServiceCIDRs()
	return &watched{
		kind: kindServiceCIDR, object: &networkingv1.ServiceCIDR{}, list: listerWatcher(s.client, "", api.List, api.Watch),
		names:    func(s *Snapshot) iter.Seq[Name] { return keys(s.serviceCIDRs) },
		api:      networkingv1.SchemeGroupVersion.WithResource("servicecidrs"),
		optional: true,
	}
}

func (s *APISource) watchIngresses() *watched {
	api := s.client.NetworkingV1().Ingresses(everywhere)
	return &watched{
		kind: kindIngress, object: &networkingv1.Ingress{}, list: listerWatcher(s.client, "", api.List, api.Watch),
		names: func(s *Snapshot) iter.Seq[Name] { return keys(s.ingresses) },
	}
}

func (s *APISource) watchCustom(kind string, resource schema.GroupVersionResource, names func(*Snapshot) iter.Seq[Name]) *watched {
	api := s.dynamic.Resource(resource).Namespace(everywhere)
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(resource.GroupVersion().WithKind(kind))
	return &watched{
		kind: kind, object: object, list: listerWatcher(s.dynamic, "", api.List, api.Watch), names: names, api: resource,
	}
}

// selectField is the selector of the objects whose field has this value.
func selectField(field, value string) string {
	return fields.OneTermEqualSelector(field, value).String()
}

// listerWatcher narrows a list and its watch to a field selector, if there is one. The client is asked whether it can
// stream lists: fakes cannot.
func listerWatcher[L runtime.Object](client any, selector string, list func(context.Context, metav1.ListOptions) (L, error),
	watching func(context.Context, metav1.ListOptions) (watch.Interface, error),
) cache.ListerWatcher {
	return cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			options.FieldSelector = selector
			return list(ctx, options)
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			options.FieldSelector = selector
			return watching(ctx, options)
		},
	}, client)
}
