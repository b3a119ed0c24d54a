// Package cluster turns Kubernetes objects into an immutable [Snapshot]: of what a node acts on, which are Services,
// EndpointSlices, ServiceCIDRs, Namespaces, the Node and its pods; of what policies are and depend on, which are those of three
// APIs and, in a few fields, all pods and nodes; or of what names are published for, which are more kinds, all pods, and other
// fields of them.
//
// A source ([APISource] for a Kubernetes API, [FileSource] for a directory of manifests) writes to a [Store]. Every
// write makes a new Snapshot that shares what did not change with the one before it, so a change costs what it
// touches. Readers that want the present take [Store.Snapshot]; readers that follow take a [Subscription], which
// tells them the keys touched since they last looked, of the kinds they follow.
//
// In the other direction a [NodeReporter] keeps capacity, conditions and annotations of the node in line with what the
// agent says, and [Events] tells users what only they can put right.
//
// Invariants:
//   - A Snapshot and all it points to never change.
//   - A Snapshot is Synced only when every kind has been listed, and stays so from then on. Nobody may conclude from
//     an object's absence before that.
//   - Objects have what publishing reads only when the source was told to read for publishing: a node pays for nothing
//     that it does not act on.
//   - What is read for policies is PolicySynced by itself: Services and names do not wait for it.
//   - An object that cannot be converted is refused whole: its last good state stays, the refusal is counted, the error
//     names the object and the field, and an event on the object says so to its users. Others change all the same. A policy of
//     which no good state is known isolates whom it selects, as far as that can be read.
//
// What an agent's role must allow, and nothing else:
//
//	list, watch    namespaces, services, endpointslices.discovery.k8s.io
//	list, watch    pods     field selector spec.nodeName: APISource with a NodeName
//	list, watch    nodes    field selector metadata.name: NodeReporter, APISource with a NodeName
//	list, watch    servicecidrs.networking.k8s.io         where the API has them; without, see docs/limits.md
//	get            discovery of networking.k8s.io         as every authenticated client may
//	list           nodes    all, when an ENI looks orphaned: NodeInstances
//	patch          nodes/status                           NodeReporter
//	create, patch  events                                 Events
//
// and for policies (APISource with Policy), of which what is not installed is not asked for:
//
//	list, watch    pods, nodes                            all: without a field selector
//	list, watch    networkpolicies.networking.k8s.io
//	list, watch    clusternetworkpolicies.policy.networking.k8s.io
//	list, watch    networkpolicies, globalnetworkpolicies, tiers, networksets, globalnetworksets.crd.projectcalico.org
//	get            discovery of the last two API groups, as every authenticated client may
//
// What the role of a publisher must allow, of the kinds it is told to read:
//
//	list, watch    namespaces, services, endpointslices.discovery.k8s.io, pods, nodes, ingresses.networking.k8s.io,
//	               httproutes.gateway.networking.k8s.io, gateways.gateway.networking.k8s.io,
//	               dnsendpoints.externaldns.k8s.io
//	get            discovery of the last two API groups, as every authenticated client may
package cluster
