package dnslab

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// childOf is the one child of a process: what entered the node waits for the program it became.
func childOf(parent int) (int, error) {
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", parent, parent))
	if err != nil {
		return 0, err
	}
	pids := strings.Fields(string(children))
	if len(pids) != 1 {
		return 0, fmt.Errorf("process %d has %d children, want one", parent, len(pids))
	}
	return strconv.Atoi(pids[0])
}

// Pin keeps all threads of a process, and those that they make, on one processor.
func Pin(pid, cpu int) error {
	var set unix.CPUSet
	set.Set(cpu)
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return err
	}
	for _, task := range tasks {
		tid, err := strconv.Atoi(task.Name())
		if err != nil {
			return err
		}
		if err := unix.SchedSetaffinity(tid, &set); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("pin thread %d of process %d: %w", tid, pid, err)
		}
	}
	return nil
}

// jiffiesPerSecond is USER_HZ, which is 100 on every Linux that runs containers.
const jiffiesPerSecond = 100

// BusySeconds is for how long the machine's processors have not been idle since it booted, all together: work that is done for
// somebody in a softirq is nobody else's then (proc_stat(5)).
func BusySeconds() (float64, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	first, _, _ := strings.Cut(string(text), "\n")
	fields := strings.Fields(first)
	if len(fields) < 8 || fields[0] != "cpu" {
		return 0, fmt.Errorf("/proc/stat begins with %q", first)
	}
	busy := 0.0
	for _, i := range []int{1, 2, 3, 6, 7} { // user, nice, system, irq, softirq
		jiffies, err := strconv.ParseFloat(fields[i], 64)
		if err != nil {
			return 0, err
		}
		busy += jiffies
	}
	return busy / jiffiesPerSecond, nil
}
