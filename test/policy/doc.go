// Package policy tests NetworkPolicy with real packets: nine pods in three namespaces on two nodes with an agent each, on a
// simulated cloud, ask one another by every protocol and both families, and a table says who must hear whom.
package policy
