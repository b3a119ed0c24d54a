// Package policy gives network policies their meaning on this node: NetworkPolicy, ClusterNetworkPolicy and Calico's.
//
// Objects of each API are translated into one normal form ([Policy], in a [Tier]). The compiler turns the policies that
// select a pod of this node into what the kernel looks up:
//
//   - a peer-set is the peers of a rule; equal ones are one, whoever wrote them;
//   - the class of an address is the peer-sets that contain it: pods, nodes and addresses of names are entries of a hash,
//     networks and what is excepted from them are boundaries of a trie, and both say the same kind of thing, so none has
//     priority over another;
//   - a policy set is all that the policies say about one direction of a pod: tiers, orders and rules;
//   - the verdict of (set, class) is the points that are allowed, flattened into sorted disjoint [Interval]s.
//
// Sets and classes are named by keyed hashes of what they say, so an agent that starts again gives the same things the
// same names, and plans from what it finds in the maps. The plan is ordered such that after each write every pod has, for
// every peer and point, the verdict from before or the one that is wanted.
package policy
