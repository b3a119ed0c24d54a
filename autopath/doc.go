// Package autopath does a client's search on the server. A resolver with `search a b c` and `ndots:5` asks for
// name.a., name.b., name.c. and only then for name., each for A and for AAAA; with autopath the answer to the first
// question is the answer the whole search would have had, and the client stops there.
//
//	scope  a client's search list and ndots              Scope, ParseResolvConf, Cluster
//	plan   the names its search would ask for, in order  Scope.Plan, pure
//	choice which of them the search ends with            Plan.Choose, a function of the lookups alone
//	answer the chosen reply under the name that was asked
//	note   for whom that answer may be kept              Note
//
// [Handler] puts these into a CoreDNS chain. It asks the plugins behind it, so their caches hold every answer under the
// name it was found at and never under the name the client asked: nothing leaks between clients of different scopes.
//
// What holds:
//   - The answer is the one of the client's own search, or the client is left to search itself. In doubt (an element
//     that fails, a client whose scope is unknown, a name that no search would have made) the question is answered as it was asked.
//   - A and AAAA end at the same element: the first one with records of either type.
//   - Nothing that the cluster can answer is asked outside, and no single label is asked at the root.
package autopath
