// Package ipam keeps the node's pool of pod addresses: secondary network interfaces (ENIs) of the instance and the
// private addresses on them. A lease is one address of each family on a shared ENI, or a whole ENI.
//
// The model is in two halves. The ledger (state.go, ledger.go, owner.go, observe.go) and the plans (plan.go, grow.go,
// choose.go, vswitch.go) are pure: they decide, take the time as an argument and do no I/O. The Pool is the shell: it
// journals what the ledger decided (store.go, recover.go), hands out leases in the order of the calls (allocate.go),
// carries out plans (resize.go), calls the cloud (drive.go, sync.go), and has one goroutine at most per ENI and kind of
// work (reconcile.go).
//
// An address goes Free -> Reserved -> Assigned -> Cooling -> Free, through Kept while it is reserved for a pod's name, or
// Free -> Releasing -> gone; Quarantine is for one that the cloud does not confirm. An ENI goes Intent -> Created ->
// Attaching -> InUse -> Draining -> Detaching -> Deleting -> gone, and is shared or exclusive.
//
// Invariants:
//   - an address has at most one owner, and a cooling one has none;
//   - every change is on disk before the cloud is called because of it and before a caller learns of it;
//   - the same key gets the same addresses for as long as it is not released;
//   - ENIs of both kinds, those only intended included, never exceed what the instance type and the settings allow;
//   - the primary ENI and ENIs without the pool's tag are never touched;
//   - nothing is forgotten on one observation: what the cloud does not show must be missing twice, 30 seconds apart;
//   - an address that was adopted is not leased before the node has said that no pod uses it;
//   - a released address is not leased again during its cooldown, unless the settings allow that for lack of any other,
//     nor after it before it is settled, but for settleLimit at most;
//   - callers are served in the order in which they came, and a full vSwitch or a refusing ENI stops nothing else;
//   - the pool's lock is not held while the cloud, the disk or the links are waited for.
//
// A crash loses nothing, because a restart replays the journal: an intent is repeated with its ClientToken, a state
// that waits for the cloud is polled again, and addresses or tagged ENIs that only the cloud knows are adopted. A journal
// that cannot be read is put aside, and the pool is rebuilt from the cloud and the node.
package ipam
