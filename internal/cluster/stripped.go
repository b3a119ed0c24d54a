package cluster

import (
	"cmp"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/cache"
)

// A stripped object is what is kept of the API's own on the way to the Store.
type stripped struct {
	metav1.ObjectMeta // namespace, name, UID and resourceVersion only
	kind              string
	into              func(*Edit) // puts the converted object; nil for one that no Snapshot holds
	err               error       // why the object is refused
	instead           func(*Edit) // puts what is in force for a refused object of which no good state is known; nil for nothing
}

// stripper is strip for the objects of one watch.
func (s *APISource) stripper(w *watched) cache.TransformFunc {
	if w.convert == nil {
		return s.strip
	}
	return func(obj any) (any, error) { return stripWith(obj, w.convert) }
}

// strip converts objects as they arrive. It may be called on what it returned, and it never fails: an error here would
// make the reflector list again and again for one bad object.
func (s *APISource) strip(obj any) (any, error) {
	return stripWith(obj, func(o *stripped, obj any) {
		switch {
		case s.publish != 0:
			o.convertPublished(obj, &s.labels)
		case s.policy && o.convertForPolicies(obj, &s.share):
		default:
			o.convert(obj)
		}
	})
}

func stripWith(obj any, convert func(o *stripped, obj any)) (any, error) {
	meta, ok := obj.(metav1.Object)
	if _, done := obj.(*stripped); done || !ok {
		return obj, nil
	}
	o := &stripped{ObjectMeta: metav1.ObjectMeta{
		Namespace: meta.GetNamespace(), Name: meta.GetName(), UID: meta.GetUID(), ResourceVersion: meta.GetResourceVersion(),
	}}
	convert(o, obj)
	if o.kind == "" {
		return obj, nil
	}
	return o, nil
}

// convert keeps what a node acts on.
func (o *stripped) convert(obj any) {
	switch in := obj.(type) {
	case *corev1.Service:
		o.kind = kindService
		svc, err := ServiceFrom(in)
		o.into, o.err = func(e *Edit) { e.PutService(svc) }, err
	case *discoveryv1.EndpointSlice:
		o.kind = kindSlice
		slice, err := SliceFrom(in)
		o.putSlice(slice, err)
	case *corev1.Pod:
		o.kind = kindPod
		pod, err := PodFrom(in)
		o.into, o.err = func(e *Edit) { e.PutPod(pod) }, err
	case *corev1.Node:
		o.kind = kindNode
		node, err := NodeFrom(in)
		o.into, o.err = func(e *Edit) { e.PutNode(node) }, err
	case *networkingv1.ServiceCIDR:
		o.kind = kindServiceCIDR
		cidr, err := ServiceCIDRFrom(in)
		o.into, o.err = func(e *Edit) { e.PutServiceCIDR(cidr) }, err
	case *corev1.Namespace:
		o.kind = kindNamespace
		o.into = func(e *Edit) { e.PutNamespace(o.Name) }
	}
}

// convertForPolicies is convert for what is kept more of where policies are read; false for all else.
func (o *stripped) convertForPolicies(obj any, share *policySharer) bool {
	switch in := obj.(type) {
	case *corev1.Pod:
		o.kind = kindPod
		pod, err := PodFrom(in)
		local, policyErr := localPodFrom(in, share)
		o.into, o.err = func(e *Edit) { e.PutPod(pod); e.putPodAnywhere(local) }, cmp.Or(err, policyErr)
	case *corev1.Namespace:
		o.kind = kindNamespace
		labels, leaving := metaFrom(in).Labels, in.DeletionTimestamp != nil
		o.into = func(e *Edit) { e.LabelNamespace(o.Name, labels); e.LeaveNamespace(o.Name, leaving) }
	default:
		return false
	}
	return true
}

// putSlice leaves into nil for a slice of no Service.
func (o *stripped) putSlice(slice *EndpointSlice, err error) {
	o.err = err
	if slice != nil {
		o.into = func(e *Edit) { e.PutSlice(slice) }
	}
}

// convertPublished keeps what publishing reads.
func (o *stripped) convertPublished(obj any, sets *labelSets) {
	switch in := obj.(type) {
	case *corev1.Service:
		o.kind = kindService
		svc, err := exposedServiceFrom(in)
		o.into, o.err = func(e *Edit) { e.PutService(svc) }, err
	case *discoveryv1.EndpointSlice:
		o.kind = kindSlice
		slice, err := exposedSliceFrom(in)
		o.putSlice(slice, err)
	case *corev1.Pod:
		o.kind = kindPod
		pod, err := exposedPodFrom(in)
		if err == nil {
			pod.Labels = sets.shared(pod.Labels)
		}
		o.into, o.err = func(e *Edit) { e.PutPod(pod) }, err
	case *corev1.Namespace:
		o.kind = kindNamespace
		labels := metaFrom(in).Labels
		o.into = func(e *Edit) { e.LabelNamespace(o.Name, labels) }
	case *corev1.Node:
		o.kind = kindNode
		node, err := NodeFrom(in)
		o.into, o.err = func(e *Edit) { e.PutNode(node) }, err
	case *networkingv1.Ingress:
		o.kind = kindIngress
		ingress, err := IngressFrom(in)
		o.into, o.err = func(e *Edit) { e.PutIngress(ingress) }, err
	case *unstructured.Unstructured:
		o.kind = in.GetKind()
		o.convertCustom(in)
	}
}

// convertCustom keeps what is read of custom resources, whose types are not compiled in.
func (o *stripped) convertCustom(in *unstructured.Unstructured) {
	switch o.kind {
	case kindHTTPRoute:
		route, err := custom(in, httpRouteFrom)
		o.into, o.err = func(e *Edit) { e.PutHTTPRoute(route) }, err
	case kindGateway:
		gateway, err := custom(in, gatewayFrom)
		o.into, o.err = func(e *Edit) { e.PutGateway(gateway) }, err
	case kindDNSEndpoint:
		endpoint, err := custom(in, dnsEndpointFrom)
		o.into, o.err = func(e *Edit) { e.PutDNSEndpoint(endpoint) }, err
	}
}

// custom decodes an object into its small type and converts that.
func custom[S, T any](in *unstructured.Unstructured, convert func(*S) (*T, error)) (*T, error) {
	var small S
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(in.Object, &small); err != nil {
		return nil, fmt.Errorf("convert %s %s/%s: %w", in.GetKind(), in.GetNamespace(), in.GetName(), err)
	}
	return convert(&small)
}

func (o *stripped) put(e *Edit) {
	if o.into == nil {
		o.delete(e) // the slice has lost its Service, or its name was used again for one we do not hold
		return
	}
	o.into(e)
}

func (o *stripped) delete(e *Edit) {
	name := Name{o.Namespace, o.Name}
	switch o.kind {
	case kindNamespace:
		e.DeleteNamespace(o.Name)
	case kindService:
		e.DeleteService(name)
	case kindSlice:
		e.DeleteSlice(name)
	case kindPod:
		e.DeletePod(name)
		e.deletePodFrom(name, true)
	case kindPolicyPod:
		e.deletePodFrom(name, false)
	case kindNode:
		e.DeleteNode(o.Name)
	case kindServiceCIDR:
		e.DeleteServiceCIDR(o.Name)
	case kindIngress:
		e.DeleteIngress(name)
	case kindHTTPRoute:
		e.DeleteHTTPRoute(name)
	case kindGateway:
		e.DeleteGateway(name)
	case kindDNSEndpoint:
		e.DeleteDNSEndpoint(name)
	default:
		deletePolicyObject(e, o.kind, name)
	}
}
