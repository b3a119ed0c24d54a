// Package podruntime is the part of a container runtime that a pod's network costs: it makes network namespaces and
// executes CNI plugins, and it times them. One process of it lives on a node ([Serve]), because entering a node's
// namespaces takes as long as a plugin does; the benchmark talks to it over a pipe ([Runtime]).
package podruntime

import "time"

// A Call is one plugin invocation, timed from before the program is executed until its output has been read and it has
// been waited for, and, with a Link, until that is done as well.
type Call struct {
	Program string   `json:"program"`
	Env     []string `json:"env"` // all of it
	Stdin   string   `json:"stdin"`
	Link    *Link    `json:"link,omitempty"`
}

// A Link is a veth pair to make, or to delete: what no plugin can do without.
type Link struct {
	Name string `json:"name"`
	// NetNS is the pod's namespace, which gets the other end as eth0; empty: the link is deleted.
	NetNS string `json:"netns,omitempty"`
}

// A Batch is calls of which some run at the same time.
type Batch struct {
	Calls   []Call `json:"calls"`
	AtATime int    `json:"atATime"`
}

// Timings are what a batch took.
type Timings struct {
	Wall time.Duration   `json:"wall"` // from the first start to the last end
	Each []time.Duration `json:"each"` // in the order of the calls
	// Outputs are what the programs printed, in the same order.
	Outputs []string `json:"outputs"`
}

// What a runtime does.
const (
	verbMake   = "make"   // namespaces, by their names
	verbRemove = "remove" // the same
	verbRun    = "run"    // a Batch
)

// Path is where a namespace is seen on the node.
func Path(name string) string { return netnsDir + name }

const netnsDir = "/run/netns/"
