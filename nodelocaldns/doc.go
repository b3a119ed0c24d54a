// Package nodelocaldns answers DNS on the node.
//
// [Zone] is the cluster zone of the Kubernetes DNS specification 1.1.0 as a pure function of a [cluster.Snapshot]. It is
// complete: once the Snapshot is synced, a name that it does not have does not exist. [Server] runs CoreDNS in this
// process, from a Corefile that [Config.Corefile] writes; the plugin `nearpath` (plugins/nearpath, registered by whoever
// imports it) puts the Zone into its chain.
//
// [Publisher] writes what the Zone answers to the kernel: finished answers for the names that fit, that they exist for all
// other types, and that the zone is complete, so that it denies the rest by itself. What it does not hold it asks userspace for.
//
// Where the specification is silent the Zone does what CoreDNS 1.15 does, except that:
//   - an ExternalName Service answers every type with its CNAME (RFC 1034, 3.6.2), not just A, AAAA and CNAME, and whatever
//     its target has;
//   - dns-version.<zone> has no data for other types, rather than no existence (RFC 2308, 2.2), and so have namespaces,
//     svc.<zone> and pod.<zone> for TXT;
//   - the labels of a port and a protocol begin with an underscore or are not such labels; their names have SRV records only;
//   - a pod name has addresses only, and no names below it;
//   - a name that does not exist has no SOA either;
//   - ns.dns.<zone> is the DNS Service, not the Services that whoever answers is behind;
//   - the SOA's serial is the time of the Snapshot.
package nodelocaldns
