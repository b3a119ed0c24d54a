package demo

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/test/netlab"
	"golang.org/x/sys/unix"
)

// oldestKernel is what the datapath needs at least.
var oldestKernel = [2]int{5, 10}

// Missing names what this machine lacks for the demo, each with what to do about it; nothing means that it can run.
func Missing() []string {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return []string{"uname: " + err.Error()}
	}
	_, noCgroup := netlab.CgroupRoot()
	release := string(bytes.TrimRight(uts.Release[:], "\x00"))
	return missing(machine{
		uid: os.Geteuid(), release: release, bpf: bpf.Supported, programs: netlab.Missing(), cgroup2: noCgroup == nil,
	})
}

// A machine is what Missing decides by.
type machine struct {
	uid      int
	release  string
	bpf      func() error
	programs []string
	cgroup2  bool
}

func missing(m machine) (lacks []string) {
	if m.uid != 0 {
		return []string{fmt.Sprintf("it needs root to make namespaces and load BPF, and runs as user %d: use sudo", m.uid)}
	}
	if v, ok := kernelVersion(m.release); ok && (v[0] < oldestKernel[0] || v[0] == oldestKernel[0] && v[1] < oldestKernel[1]) {
		return []string{fmt.Sprintf("the kernel is %s: Linux %d.%d or newer is needed", m.release, oldestKernel[0], oldestKernel[1])}
	}
	if err := m.bpf(); err != nil {
		lacks = append(lacks, fmt.Sprintf("BPF does not work on this machine: %v", err))
	}
	if !m.cgroup2 {
		lacks = append(lacks, "no cgroup2 is mounted: mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified, for example")
	}
	for _, p := range m.programs {
		lacks = append(lacks, "missing program "+p)
	}
	return lacks
}

func kernelVersion(release string) (v [2]int, ok bool) {
	parts := strings.SplitN(release, ".", 3)
	if len(parts) < 2 {
		return v, false
	}
	for i := range v {
		digits := strings.TrimRight(strings.SplitN(parts[i], "-", 2)[0], "+")
		n, err := strconv.Atoi(digits)
		if err != nil {
			return v, false
		}
		v[i] = n
	}
	return v, true
}
