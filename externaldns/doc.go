// Package externaldns publishes names of the cluster in the zones of Alibaba Cloud PrivateZone: one call per changed value,
// and never a change to what is not ours.
//
// What is wanted comes from the Desired side (Wants per name). The zones' side is in two halves. The pure half decides: a
// Policy plans one name from its wants and the records the Index has (plan.go), the guard holds mass deletes (guard.go), the
// queue orders names by lane (lanes.go), a View answers questions and plans adoptions (view.go, adopt.go, audit.go,
// explain.go). The Syncer is the shell: it reads zones, plans names that were touched, and makes one call at a time for each.
// After every call the name is planned anew, so there is no plan that could be out of date, and nothing to go on with after a
// crash: objects and zones are all the state there is.
//
// PrivateZone has one record per value, and one field for us on each: the remark. It names the owner and is written by the
// call that makes the record, so there is no moment in which a record of ours is not known to be ours, and instances with
// different owners share a name value by value. What has no remark of ours is never changed.
//
// Invariants:
//   - a call is made only for a name that was planned from an accepted listing or a later look at that name;
//   - a record is changed or deleted only if its remark is ours, and was seen to be within Config.Stale;
//   - within a name values are changed, then added, then deleted, so it is never empty but between a CNAME and other types;
//   - nothing is deleted before the objects are synced, while the guard holds, or because a zone cannot be read;
//   - hints (change logs, time stamps of zones) lead to a look, never to a write;
//   - the token of a write is used again for as long as its outcome is unknown, and never after;
//   - no answer of the API ends Run; what it refuses concerns one value, one kind of call or one zone.
//
// How many calls there are is for the cloud client alone to say, which has a budget per action that adapts. The Syncer keeps
// only as many calls in flight as the present rate answers in 0.3 s: whatever waits beyond that waits in its own lanes, where
// a fresh change overtakes a backlog. A second bucket here would only disagree with the first.
package externaldns
