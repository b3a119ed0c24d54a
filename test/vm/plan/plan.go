// Package plan is what test/vm tells a guest to do, and what the guest says while it does it.
package plan

// File is where the guest's init finds the Plan, as JSON.
const File = "/plan.json"

// Port is the serial port that init writes Events to, one JSON object a line. The kernel's console is another.
const Port = "/dev/ttyS1"

// A Plan is everything one guest does between its start and its power-off.
type Plan struct {
	Modules []Module
	Runs    []Run
}

// A Module is a kernel module, in an order in which each comes after those it needs.
type Module struct {
	Name, Path string
}

// A Run is one program that runs to its end before the next one starts.
type Run struct {
	Name    string
	Dir     string
	Argv    []string // the program's path first
	Env     []string // beside PATH and the like
	Seconds int      // then its process group is killed
}

// An Event is one thing that happened in the guest. Exactly one of Module, Run and Down is set.
type Event struct {
	Module string `json:",omitempty"` // could not be loaded, Error says why
	Run    string `json:",omitempty"`
	Line   string `json:",omitempty"` // of Run's output, when not Done
	Done   bool   `json:",omitempty"` // Run has ended
	Exit   int    `json:",omitempty"` // its exit status; -1 when it was killed or did not start, Error says why
	Error  string `json:",omitempty"`
	Down   bool   `json:",omitempty"` // everything has run, the guest powers off
}
