// Package ipam keeps the node's pool of pod addresses: secondary network interfaces (ENIs) of the instance and the
// private addresses on them.
//
// The model is in two halves. The ledger (ledger.go, observe.go) and the plans (plan.go) are pure: they decide, take
// the time as an argument and do no I/O. The Pool (pool.go, reconcile.go, drive.go) is the shell: it journals what the
// ledger decided (store.go), calls the cloud, and has one goroutine at most per ENI.
//
// An address goes Free -> Reserved -> Assigned -> Cooling -> Free, or Free -> Releasing -> gone; Quarantine is for one
// that the cloud does not confirm. An ENI goes Intent -> Created -> Attaching -> InUse -> Draining -> Detaching ->
// Deleting -> gone.
//
// Invariants:
//   - an address has at most one owner, and a cooling one has none;
//   - every change is on disk before the cloud is called because of it and before a caller learns of it;
//   - the same key gets the same address for as long as it is not released;
//   - ENIs, those only intended included, never exceed what the instance type allows;
//   - the primary ENI and ENIs without the pool's tag are never touched;
//   - nothing is forgotten on one observation: what the cloud does not show must be missing twice, 30 seconds apart;
//   - the pool's lock is not held while the cloud, the disk or the links are waited for.
//
// A crash loses nothing, because a restart replays the journal: an intent is repeated with its ClientToken, a state
// that waits for the cloud is polled again, and addresses or tagged ENIs that only the cloud knows are adopted.
package ipam
