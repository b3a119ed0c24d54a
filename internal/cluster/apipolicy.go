package cluster

import (
	"iter"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

const (
	policyGroup          = "policy.networking.k8s.io"
	calicoGroup          = "crd.projectcalico.org"
	versionClusterPolicy = policyGroup + "/v1alpha2"
	versionCalico        = calicoGroup + "/v1"
)

// policyWatches are the kinds to follow beside a node's for policies. Pods of this node come by the node's own watch, so that
// both of their states change at once; nobody waits for the others but readers of policies.
func (s *APISource) policyWatches() []*watched {
	tier := func(s *Snapshot) iter.Seq[Name] { return keys(s.calicoTiers) }
	cluster := func(s *Snapshot) iter.Seq[Name] { return keys(s.clusterPolicies) }
	return []*watched{
		s.watchPolicyPods(), s.watchPolicyNodes(), s.watchNetworkPolicies(),
		s.watchPolicyCRD(kindClusterPolicy, schema.GroupVersionResource{Group: policyGroup, Version: "v1alpha2", Resource: "clusternetworkpolicies"}, cluster),
		s.watchPolicyCRD(kindCalicoPolicy, calicoResource("networkpolicies"), namespaced(func(s *Snapshot) iter.Seq[Name] { return keys(s.calicoPolicies) }, true)),
		s.watchPolicyCRD(kindCalicoGlobalPolicy, calicoResource("globalnetworkpolicies"), namespaced(func(s *Snapshot) iter.Seq[Name] { return keys(s.calicoPolicies) }, false)),
		s.watchPolicyCRD(kindCalicoTier, calicoResource("tiers"), tier),
		s.watchPolicyCRD(kindCalicoSet, calicoResource("networksets"), namespaced(func(s *Snapshot) iter.Seq[Name] { return keys(s.calicoSets) }, true)),
		s.watchPolicyCRD(kindCalicoGlobalSet, calicoResource("globalnetworksets"), namespaced(func(s *Snapshot) iter.Seq[Name] { return keys(s.calicoSets) }, false)),
	}
}

func calicoResource(name string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: calicoGroup, Version: "v1", Resource: name}
}

// namespaced are the names with a namespace, or those without.
func namespaced(names func(*Snapshot) iter.Seq[Name], want bool) func(*Snapshot) iter.Seq[Name] {
	return func(s *Snapshot) iter.Seq[Name] {
		return func(yield func(Name) bool) {
			for name := range names(s) {
				if (name.Namespace != "") == want && !yield(name) {
					return
				}
			}
		}
	}
}

// watchPolicyPods follows pods that have another node than this.
func (s *APISource) watchPolicyPods() *watched {
	api := s.client.CoreV1().Pods(everywhere)
	selector := fields.AndSelectors(fields.OneTermNotEqualSelector("spec.nodeName", s.node), fields.OneTermNotEqualSelector("spec.nodeName", "")).String()
	return &watched{
		kind: kindPolicyPod, object: &corev1.Pod{}, list: listerWatcher(s.client, selector, api.List, api.Watch),
		names: func(s *Snapshot) iter.Seq[Name] {
			return func(yield func(Name) bool) {
				for name, pod := range s.policyPods.all() {
					if !pod.Local && !yield(name) {
						return
					}
				}
			}
		},
		convert: s.convertPolicyPod,
	}
}

func (s *APISource) convertPolicyPod(o *stripped, obj any) {
	in, ok := obj.(*corev1.Pod)
	if !ok {
		return
	}
	o.kind = kindPolicyPod
	if in.Spec.NodeName == "" || in.Spec.NodeName == s.node {
		return // of a server that has not looked at the selector
	}
	pod, err := policyPodFrom(in, &s.share)
	o.into, o.err = func(e *Edit) { e.putPodAnywhere(pod) }, err
}

func (s *APISource) watchPolicyNodes() *watched {
	w := s.watchNodes("")
	w.kind, w.names = kindPolicyNode, func(s *Snapshot) iter.Seq[Name] { return keys(s.policyNodes) }
	w.convert = func(o *stripped, obj any) {
		in, ok := obj.(*corev1.Node)
		if !ok {
			return
		}
		o.kind = kindPolicyNode
		node, err := policyNodeFrom(in)
		o.into, o.err = func(e *Edit) { e.PutPolicyNode(node) }, err
	}
	return w
}

func (s *APISource) watchNetworkPolicies() *watched {
	api := s.client.NetworkingV1().NetworkPolicies(everywhere)
	return &watched{
		kind: kindNetworkPolicy, object: &networkingv1.NetworkPolicy{}, list: listerWatcher(s.client, "", api.List, api.Watch),
		names: func(s *Snapshot) iter.Seq[Name] { return keys(s.networkPolicies) },
		convert: func(o *stripped, obj any) {
			in, ok := obj.(*networkingv1.NetworkPolicy)
			if !ok {
				return
			}
			o.kind = kindNetworkPolicy
			o.take(policyOutcome(kindNetworkPolicy, func(into metav1.Object) error {
				in.DeepCopyInto(into.(*networkingv1.NetworkPolicy))
				return nil
			}))
		},
	}
}

func (s *APISource) watchPolicyCRD(kind string, resource schema.GroupVersionResource, names func(*Snapshot) iter.Seq[Name]) *watched {
	w := s.watchCustom(policyAPIKinds()[kind].kind, resource, names)
	w.kind = kind
	w.convert = func(o *stripped, obj any) {
		in, ok := obj.(*unstructured.Unstructured)
		if !ok {
			return
		}
		o.kind = kind
		o.take(policyOutcome(kind, customDecoder(in)))
	}
	return w
}
