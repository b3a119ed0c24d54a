package dns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nearpath/nearpath/bench/measure"
	"github.com/nearpath/nearpath/test/netlab"
)

// A contender answers DNS on the node.
type contender struct {
	name   string
	role   measure.Role
	server netip.AddrPort // as the pod asks it
	pid    int            // of its program
}

// The peers, and the floor.
const (
	nameUnbound = "unbound"
	nameCoreDNS = "CoreDNS cache"
	nameEcho    = "UDP echo in C"
)

// upstreamAddr is where those ask that have no answer.
var upstreamAddr = netip.MustParseAddrPort("127.0.0.5:53")

// nodeDNS is where the node's own listener is; the others are there, too, on other ports, so that every packet has the same
// way.
var nodeDNS = netip.MustParseAddr("169.254.20.10")

const (
	echoPort = 5300 + iota
	unboundPort
	cachePort
)

// cacheFile is the Corefile of NodeLocal DNSCache for names outside the cluster (kubernetes, cluster/addons/dns/nodelocaldns).
var cacheFile = fmt.Sprintf(`.:%d {
	errors
	cache 30
	reload
	loop
	bind %s
	forward . %s
	prometheus 127.0.0.1:9253
}
`, cachePort, nodeDNS, upstreamAddr)

// unboundFile is Debian's default but for what a resolver of a node cannot need: it forwards, and validates nothing, as the
// others do not.
var unboundFile = fmt.Sprintf(`server:
  interface: %s@%d
  access-control: 0.0.0.0/0 allow
  do-daemonize: no
  do-not-query-localhost: no
  username: ""
  chroot: ""
  directory: ""
  pidfile: ""
  use-syslog: no
  verbosity: 0
  num-threads: 1
  module-config: "iterator"
  do-ip6: no
forward-zone:
  name: "."
  forward-addr: %s@%d
`, nodeDNS, unboundPort, upstreamAddr.Addr(), upstreamAddr.Port())

// startPeers starts all of them. They are there when they answer, which is for the caller to see.
func (b *bed) startPeers(ctx context.Context) error {
	files := map[string]string{"Corefile": cacheFile, "unbound.conf": unboundFile}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(b.node.Dir(), name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	for _, p := range []struct {
		contender
		program string
		args    []string
	}{
		{contender{nameUnbound, measure.Peer, netip.AddrPortFrom(nodeDNS, unboundPort), 0}, "unbound", []string{"-d", "-c", filepath.Join(b.node.Dir(), "unbound.conf")}},
		{contender{nameCoreDNS, measure.Peer, netip.AddrPortFrom(nodeDNS, cachePort), 0}, filepath.Join(b.peers, "cachepeer"), []string{"-conf", filepath.Join(b.node.Dir(), "Corefile")}},
		{contender{nameEcho, measure.Floor, netip.AddrPortFrom(nodeDNS, echoPort), 0}, filepath.Join(b.peers, "udp-echo"), []string{nodeDNS.String(), strconv.Itoa(echoPort)}},
	} {
		log, err := os.Create(filepath.Join(b.node.Dir(), filepath.Base(p.program)+".log"))
		if err != nil {
			return err
		}
		cmd := b.node.Command(context.WithoutCancel(ctx), p.program, p.args...)
		cmd.Stdout, cmd.Stderr = log, log
		process, err := b.node.Lab.Start(cmd)
		if err = errors.Join(err, log.Close()); err != nil {
			return fmt.Errorf("start %s: %w", p.name, err)
		}
		c := p.contender
		if err := b.await(ctx, process, c, log.Name()); err != nil {
			return err
		}
		if c.pid, err = childOf(process.PID()); err != nil {
			return err
		}
		b.contenders = append(b.contenders, &c)
	}
	return nil
}

// await returns when the contender answers.
func (b *bed) await(ctx context.Context, process *netlab.Process, c contender, log string) error {
	return b.node.Await(ctx, func() string {
		select {
		case <-process.Done():
			text, _ := os.ReadFile(log) //nolint:errcheck // it is for a message only
			return fmt.Sprintf("%s ended: %v: %s", c.name, process.Err(), text)
		default:
		}
		if err := b.client.Ask(ctx, verbLoop, loop{Server: c.server, Names: []string{hot}, Times: 1, Patience: patience}, nil); err != nil {
			return err.Error()
		}
		return ""
	})
}

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

// pin keeps all threads of a process, and those that they make, on one processor.
func pin(pid, cpu int) error {
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

// residentMiB is what the kernel counts of a process's pages.
func residentMiB(pid int) (float64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		name, rest, _ := strings.Cut(line, ":")
		if fields := strings.Fields(rest); name == "VmRSS" && len(fields) == 2 {
			kib, err := strconv.ParseFloat(fields[0], 64)
			return kib / 1024, err
		}
	}
	return 0, fmt.Errorf("process %d has no size", pid)
}

// jiffiesPerSecond is USER_HZ, which is 100 on every Linux that runs containers.
const jiffiesPerSecond = 100

// busySeconds is for how long the machine's processors have not been idle since it booted, all together: work that is done for
// somebody in a softirq is nobody else's then (proc_stat(5)).
func busySeconds() (float64, error) {
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
