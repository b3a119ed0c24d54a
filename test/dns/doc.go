// Package dns asks the node's DNS from pods of every datapath and from the node, 5,000 times a second, while its agent is killed,
// restarted and replaced, and while everybody behind it goes away.
package dns
