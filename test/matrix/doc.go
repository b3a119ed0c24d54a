// Package matrix proves pod networking: real agents, the real CNI plugin and the simulated cloud with its anti-spoofing, on
// two nodes. TestMatrix goes through who can talk to whom and checks the source address on arrival, for every datapath,
// family and protocol; TestSelfHeal breaks the node's network while pods talk; TestVerbs holds the plugin to the CNI
// specification; TestChurn looks for what thousands of pods leave behind. The same code runs in the node lane with the
// datapaths that this machine's kernel has, and in the VM lane with all of them.
package matrix
