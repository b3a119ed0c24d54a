package measure

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A Machine is what figures depend on and do not say.
type Machine struct {
	Kernel   string `json:"kernel"`
	CPU      string `json:"cpu"`
	Cores    int    `json:"cores"`
	MemoryMB int    `json:"memoryMB"`
	Go       string `json:"go"`
}

// ThisMachine reads the facts of the machine it runs on.
func ThisMachine() (Machine, error) {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return Machine{}, fmt.Errorf("read the kernel's release: %w", err)
	}
	cpu, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return Machine{}, err
	}
	memory, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return Machine{}, err
	}
	kilobytes, err := strconv.Atoi(strings.TrimSuffix(field(string(memory), "MemTotal"), " kB"))
	if err != nil {
		return Machine{}, fmt.Errorf("read MemTotal of /proc/meminfo: %w", err)
	}
	return Machine{
		Kernel: unix.ByteSliceToString(uts.Release[:]), CPU: field(string(cpu), "model name"), Cores: runtime.NumCPU(),
		MemoryMB: kilobytes / 1024, Go: runtime.Version(),
	}, nil
}

// field is the value of the first line "name : value".
func field(text, name string) string {
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// load is the load average over one minute.
func load() (float64, error) {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0, err
	}
	first, _, _ := strings.Cut(string(text), " ")
	return strconv.ParseFloat(first, 64)
}
