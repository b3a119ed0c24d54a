// Package netlab builds small laboratories out of one Linux machine: network namespaces, and nodes that look like
// machines of their own to whatever runs in them.
//
// A [Lab] owns everything it makes, and Close removes all of it in reverse, also after a partial failure. Names of
// what reaches the machine begin with the lab's prefix, and a journal in the lab's directory is written before each
// thing is made, so that [Sweep] can clean up after a process that was killed. Processes end with the process that
// owns the lab, even when that is killed, so a leftover is never running.
//
// A [Node] is a set of namespaces (mount, pid, uts, ipc, cgroup) inside a network namespace. It has its own /proc,
// /sys, /run and bpffs, and its cgroup2 root is one directory of the machine's: a cgroup program attached at the
// node's /sys/fs/cgroup acts on that node alone. Ending its process 1 ends everything in it.
//
// A [Sandbox] is what a container runtime makes for a pod, without the runtime: a network namespace seen below
// /run/netns on the node, a cgroup below the node's, and commands that run in both.
//
// Root is needed (see [RequireRoot]), and the programs that [Missing] looks for: util-linux and a shell.
package netlab
