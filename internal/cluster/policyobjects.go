package cluster

import (
	"iter"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
)

func (p *ClusterNetworkPolicy) equal(o *ClusterNetworkPolicy) bool {
	return p.Meta.equal(&o.Meta) && p.Refused == o.Refused && equality.Semantic.DeepEqual(&p.Spec, &o.Spec)
}

func (p *CalicoPolicy) equal(o *CalicoPolicy) bool {
	return p.Meta.equal(&o.Meta) && p.SortName == o.SortName && p.Refused == o.Refused && equality.Semantic.DeepEqual(&p.Spec, &o.Spec)
}

func (t *CalicoTier) equal(o *CalicoTier) bool {
	return t.Meta.equal(&o.Meta) && equality.Semantic.DeepEqual(&t.Spec, &o.Spec)
}

func (s *CalicoNetworkSet) equal(o *CalicoNetworkSet) bool {
	return s.Meta.equal(&o.Meta) && slices.Equal(s.Nets, o.Nets)
}

// ClusterNetworkPolicy returns the ClusterNetworkPolicy of that name, nil when there is none or policies are not read.
func (s *Snapshot) ClusterNetworkPolicy(name string) *ClusterNetworkPolicy {
	policy, _ := s.clusterPolicies.get(Name{Name: name})
	return policy
}

// ClusterNetworkPolicies yields every ClusterNetworkPolicy, in no particular order.
func (s *Snapshot) ClusterNetworkPolicies() iter.Seq[*ClusterNetworkPolicy] {
	return values(s.clusterPolicies)
}

// PutClusterNetworkPolicy adds a ClusterNetworkPolicy or replaces the one of that name.
func (e *Edit) PutClusterNetworkPolicy(policy *ClusterNetworkPolicy) {
	putObject(e, &e.next.clusterPolicies, ClusterNetworkPolicies, policy)
}

// DeleteClusterNetworkPolicy removes a ClusterNetworkPolicy.
func (e *Edit) DeleteClusterNetworkPolicy(name string) {
	deleteObject(e, &e.next.clusterPolicies, ClusterNetworkPolicies, Name{Name: name})
}

// CalicoPolicy returns Calico's NetworkPolicy of that name, without a namespace its GlobalNetworkPolicy; nil when there is none or
// policies are not read.
func (s *Snapshot) CalicoPolicy(name Name) *CalicoPolicy {
	policy, _ := s.calicoPolicies.get(name)
	return policy
}

// CalicoPolicies yields every NetworkPolicy and GlobalNetworkPolicy of Calico, in no particular order.
func (s *Snapshot) CalicoPolicies() iter.Seq[*CalicoPolicy] { return values(s.calicoPolicies) }

// PutCalicoPolicy adds a policy of Calico or replaces the one of that name.
func (e *Edit) PutCalicoPolicy(policy *CalicoPolicy) {
	putObject(e, &e.next.calicoPolicies, CalicoPolicies, policy)
}

// DeleteCalicoPolicy removes a policy of Calico, without a namespace a GlobalNetworkPolicy.
func (e *Edit) DeleteCalicoPolicy(name Name) {
	deleteObject(e, &e.next.calicoPolicies, CalicoPolicies, name)
}

// CalicoTier returns Calico's Tier of that name, nil when there is none or policies are not read.
func (s *Snapshot) CalicoTier(name string) *CalicoTier {
	tier, _ := s.calicoTiers.get(Name{Name: name})
	return tier
}

// CalicoTiers yields every Tier of Calico, in no particular order.
func (s *Snapshot) CalicoTiers() iter.Seq[*CalicoTier] { return values(s.calicoTiers) }

// PutCalicoTier adds a Tier or replaces the one of that name.
func (e *Edit) PutCalicoTier(tier *CalicoTier) { putObject(e, &e.next.calicoTiers, CalicoTiers, tier) }

// DeleteCalicoTier removes a Tier.
func (e *Edit) DeleteCalicoTier(name string) {
	deleteObject(e, &e.next.calicoTiers, CalicoTiers, Name{Name: name})
}

// CalicoNetworkSet returns Calico's NetworkSet of that name, without a namespace its GlobalNetworkSet; nil when there is none or
// policies are not read.
func (s *Snapshot) CalicoNetworkSet(name Name) *CalicoNetworkSet {
	set, _ := s.calicoSets.get(name)
	return set
}

// CalicoNetworkSets yields every NetworkSet and GlobalNetworkSet of Calico, in no particular order.
func (s *Snapshot) CalicoNetworkSets() iter.Seq[*CalicoNetworkSet] { return values(s.calicoSets) }

// PutCalicoNetworkSet adds a set of networks or replaces the one of that name.
func (e *Edit) PutCalicoNetworkSet(set *CalicoNetworkSet) {
	putObject(e, &e.next.calicoSets, CalicoNetworkSets, set)
}

// DeleteCalicoNetworkSet removes a set of networks, without a namespace a GlobalNetworkSet.
func (e *Edit) DeleteCalicoNetworkSet(name Name) {
	deleteObject(e, &e.next.calicoSets, CalicoNetworkSets, name)
}

func (o *Objects) putPolicies(e *Edit) {
	each(o.PolicyPods, e.PutPolicyPod)
	each(o.PolicyNodes, e.PutPolicyNode)
	each(o.NetworkPolicies, e.PutNetworkPolicy)
	each(o.ClusterNetworkPolicies, e.PutClusterNetworkPolicy)
	each(o.CalicoPolicies, e.PutCalicoPolicy)
	each(o.CalicoTiers, e.PutCalicoTier)
	each(o.CalicoNetworkSets, e.PutCalicoNetworkSet)
	for _, r := range o.Refused {
		if r.instead != nil {
			r.instead(e)
		}
	}
}

func deleteMissingPolicies(e *Edit, want objectKeys) {
	have := e.next
	missing(have.policyPods, want[kindPolicyPod], e.DeletePolicyPod)
	missing(have.policyNodes, want[kindPolicyNode], func(name Name) { e.DeletePolicyNode(name.Name) })
	missing(have.networkPolicies, want[kindNetworkPolicy], e.DeleteNetworkPolicy)
	missing(have.clusterPolicies, want[kindClusterPolicy], func(name Name) { e.DeleteClusterNetworkPolicy(name.Name) })
	missing(have.calicoPolicies, want[kindCalicoPolicy], e.DeleteCalicoPolicy)
	missing(have.calicoTiers, want[kindCalicoTier], func(name Name) { e.DeleteCalicoTier(name.Name) })
	missing(have.calicoSets, want[kindCalicoSet], e.DeleteCalicoNetworkSet)
}
