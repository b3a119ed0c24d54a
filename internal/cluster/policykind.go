package cluster

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// An apiKind is a kind of object as the API calls it.
type apiKind struct{ version, kind string }

// policyAPIKinds are what the API calls the kinds that are read for policies.
func policyAPIKinds() map[string]apiKind {
	return map[string]apiKind{
		kindPolicyPod:          {versionCore, kindPod},
		kindPolicyNode:         {versionCore, kindNode},
		kindNetworkPolicy:      {versionNetworking, "NetworkPolicy"},
		kindClusterPolicy:      {versionClusterPolicy, "ClusterNetworkPolicy"},
		kindCalicoPolicy:       {versionCalico, "NetworkPolicy"},
		kindCalicoGlobalPolicy: {versionCalico, "GlobalNetworkPolicy"},
		kindCalicoTier:         {versionCalico, "Tier"},
		kindCalicoSet:          {versionCalico, "NetworkSet"},
		kindCalicoGlobalSet:    {versionCalico, "GlobalNetworkSet"},
	}
}

// policyRefusals are the kinds of which objects may be refused.
func policyRefusals() []string { return slices.Sorted(maps.Keys(policyAPIKinds())) }

// An outcome is what becomes of an object: into puts it, add appends it, or it is refused with err. Then instead puts what is in
// force as long as no good state of the object is known; nil for nothing.
type outcome struct {
	into, instead func(*Edit)
	add           func(*Objects)
	err           error
}

func (o *stripped) take(out outcome) { o.into, o.instead, o.err = out.into, out.instead, out.err }

// policyOutcome converts an object; decode fills the type that it is given.
func policyOutcome(kind string, decode func(metav1.Object) error) outcome {
	switch kind {
	case kindNetworkPolicy:
		return convertPolicy(decode, networkPolicyFrom, networkPolicyPlace())
	case kindClusterPolicy:
		return convertPolicy(decode, clusterNetworkPolicyFrom, policyPlace[*ClusterNetworkPolicy]{
			func(s *Snapshot) cowMap[Name, *ClusterNetworkPolicy] { return s.clusterPolicies }, (*Edit).PutClusterNetworkPolicy,
			func(o *Objects) *[]*ClusterNetworkPolicy { return &o.ClusterNetworkPolicies }, func(p *ClusterNetworkPolicy) bool { return p.Refused != "" },
		})
	case kindCalicoPolicy, kindCalicoGlobalPolicy:
		return convertPolicy(decode, calicoPolicyFrom, policyPlace[*CalicoPolicy]{
			func(s *Snapshot) cowMap[Name, *CalicoPolicy] { return s.calicoPolicies }, (*Edit).PutCalicoPolicy,
			func(o *Objects) *[]*CalicoPolicy { return &o.CalicoPolicies }, func(p *CalicoPolicy) bool { return p.Refused != "" },
		})
	case kindCalicoTier:
		return convertPolicy(decode, calicoTierFrom, policyPlace[*CalicoTier]{
			func(s *Snapshot) cowMap[Name, *CalicoTier] { return s.calicoTiers }, (*Edit).PutCalicoTier,
			func(o *Objects) *[]*CalicoTier { return &o.CalicoTiers }, func(*CalicoTier) bool { return false },
		})
	case kindCalicoSet, kindCalicoGlobalSet:
		return convertPolicy(decode, calicoNetworkSetFrom, policyPlace[*CalicoNetworkSet]{
			func(s *Snapshot) cowMap[Name, *CalicoNetworkSet] { return s.calicoSets }, (*Edit).PutCalicoNetworkSet,
			func(o *Objects) *[]*CalicoNetworkSet { return &o.CalicoNetworkSets }, func(*CalicoNetworkSet) bool { return false },
		})
	}
	return outcome{err: fmt.Errorf("%s is no kind that policies are made of", kind)}
}

// A policyPlace is where objects of one type are.
type policyPlace[T published[T]] struct {
	have    func(*Snapshot) cowMap[Name, T]
	put     func(*Edit, T)
	list    func(*Objects) *[]T
	standIn func(T) bool // the object stands for one that is malformed
}

func networkPolicyPlace() policyPlace[*NetworkPolicy] {
	return policyPlace[*NetworkPolicy]{
		func(s *Snapshot) cowMap[Name, *NetworkPolicy] { return s.networkPolicies }, (*Edit).PutNetworkPolicy,
		func(o *Objects) *[]*NetworkPolicy { return &o.NetworkPolicies }, func(p *NetworkPolicy) bool { return p.Refused != "" },
	}
}

func convertPolicy[S any, T published[T], O interface {
	*S
	metav1.Object
}](decode func(metav1.Object) error, convert func(O) (T, error), at policyPlace[T],
) outcome {
	in := O(new(S))
	if err := decode(in); err != nil {
		return outcome{err: err}
	}
	policy, err := convert(in)
	out := outcome{
		into: func(e *Edit) { at.put(e, policy) },
		add:  func(o *Objects) { *at.list(o) = append(*at.list(o), policy) },
		err:  err,
	}
	var none T
	if err != nil && policy != none {
		out.instead = func(e *Edit) {
			if old, ok := at.have(&e.next).get(policy.name()); !ok || at.standIn(old) {
				at.put(e, policy)
			}
		}
	}
	return out
}

// customDecoder decodes a custom resource of the API.
func customDecoder(in *unstructured.Unstructured) func(metav1.Object) error {
	return func(small metav1.Object) error {
		text, err := json.Marshal(in.Object)
		if err == nil {
			err = json.Unmarshal(text, small)
		}
		if err != nil {
			return fmt.Errorf("convert %s %s: %w", in.GetKind(), Name{in.GetNamespace(), in.GetName()}, err)
		}
		return nil
	}
}

func deletePolicyObject(e *Edit, kind string, name Name) {
	switch kind {
	case kindPolicyNode:
		e.DeletePolicyNode(name.Name)
	case kindNetworkPolicy:
		e.DeleteNetworkPolicy(name)
	case kindClusterPolicy:
		e.DeleteClusterNetworkPolicy(name.Name)
	case kindCalicoPolicy, kindCalicoGlobalPolicy:
		e.DeleteCalicoPolicy(name)
	case kindCalicoTier:
		e.DeleteCalicoTier(name.Name)
	case kindCalicoSet, kindCalicoGlobalSet:
		e.DeleteCalicoNetworkSet(name)
	}
}
