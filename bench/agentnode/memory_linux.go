package agentnode

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/nearpath/nearpath/bench/measure"
)

// MemoryMiB is the size of the agent, and at its largest. What entered the node waits for the program it became.
func (n *Node) MemoryMiB() (resident, peak float64, err error) {
	parent := n.Agent.PID()
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", parent, parent))
	if err != nil {
		return 0, 0, err
	}
	pids := strings.Fields(string(children))
	if len(pids) != 1 {
		return 0, 0, fmt.Errorf("process %d has %d children, want the agent alone", parent, len(pids))
	}
	pid, err := strconv.Atoi(pids[0])
	if err != nil {
		return 0, 0, err
	}
	return measure.MemoryMiB(pid)
}
