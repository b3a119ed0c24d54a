// Package crash holds node tests that kill a real agent with SIGKILL at every boundary between its journal, the cloud,
// the kernel and the container runtime, and then look at all of them: nothing twice, nothing leaked.
package crash
