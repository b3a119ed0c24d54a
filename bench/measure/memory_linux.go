package measure

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// MemoryMiB is what the kernel counts of the pages of a process, and at its largest.
func MemoryMiB(pid int) (resident, peak float64, err error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, err
	}
	sizes := map[string]float64{}
	for line := range strings.Lines(string(status)) {
		name, rest, _ := strings.Cut(line, ":")
		if fields := strings.Fields(rest); len(fields) == 2 && fields[1] == "kB" {
			kib, err := strconv.ParseFloat(fields[0], 64)
			if err != nil {
				return 0, 0, err
			}
			sizes[name] = kib / 1024
		}
	}
	if sizes["VmRSS"] == 0 || sizes["VmHWM"] == 0 {
		return 0, 0, fmt.Errorf("process %d has no size", pid)
	}
	return sizes["VmRSS"], sizes["VmHWM"], nil
}
