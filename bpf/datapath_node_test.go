//go:build node

package bpf

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nearpath/nearpath/test/netlab"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const tcp, udp, sctp = unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_SCTP

// agentEnv tells the copy of the test program to be an agent on the pins it names.
const agentEnv = "NEARPATH_TEST_AGENT_PINS"

// insideEnv marks the copy of the test program that runs in namespaces of its own.
const insideEnv = "NEARPATH_TEST_CGROUP"

// TestMain runs the tests in a copy of this process that has a network namespace, a mount namespace and a cgroup of
// its own: programs act on it alone, a connect that is not translated leaves nothing, and pins go when it ends.
func TestMain(m *testing.M) {
	if os.Getenv(insideEnv) == "" {
		os.Exit(runInside())
	}
	if pins := os.Getenv(agentEnv); pins != "" {
		fmt.Fprintln(os.Stderr, beAgent(pins))
		os.Exit(1)
	}
	if err := netlink.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: "lo"}}); err != nil {
		fmt.Fprintln(os.Stderr, "bring lo up:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func runInside() int {
	root, err := netlab.CgroupRoot()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	dir, err := os.MkdirTemp(root, "nearpath-bpf-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "make a cgroup (are you root?):", err)
		return 1
	}
	defer os.Remove(dir)
	cgroup, err := os.Open(dir)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer cgroup.Close()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideEnv+"="+dir)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET, Unshareflags: unix.CLONE_NEWNS,
		UseCgroupFD: true, CgroupFD: int(cgroup.Fd()), Pdeathsig: unix.SIGKILL,
	}
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func node(tb testing.TB) Config {
	tb.Helper()
	pins := tb.TempDir()
	if err := unix.Mount("bpf", pins, "bpf", 0, ""); err != nil {
		tb.Fatalf("mount bpffs: %v", err)
	}
	tb.Cleanup(func() {
		if err := unix.Unmount(pins, 0); err != nil {
			tb.Errorf("unmount bpffs: %v", err)
		}
	})
	cookie, err := NetNSCookie()
	if err != nil {
		tb.Fatal(err)
	}
	return Config{PinDir: filepath.Join(pins, "nearpath"), CgroupRoot: os.Getenv(insideEnv), HostNetNSCookie: cookie}
}

func start(t *testing.T, cfg Config) *Datapath {
	t.Helper()
	d, err := Load(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := d.Attach(); err != nil {
		t.Fatal(err)
	}
	return d
}

// publish makes backends reachable through a frontend.
func publish(t *testing.T, d *Datapath, record uint32, f Frontend, b Block) {
	t.Helper()
	if err := d.Services.Publish(record, b); err != nil {
		t.Fatal(err)
	}
	if err := d.Services.PutFrontend(f, ClusterIP, record); err != nil {
		t.Fatal(err)
	}
}

func frontend(addr string, protocol uint8) Frontend {
	return Frontend{Addr: netip.MustParseAddrPort(addr), Protocol: protocol}
}

// greeter accepts connections and says its name.
func greeter(t *testing.T, addr, name string) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, name)
			c.Close()
		}
	}()
	return netip.MustParseAddrPort(l.Addr().String())
}

// echo answers datagrams with its name and what came.
func echo(t *testing.T, addr, name string) netip.AddrPort {
	t.Helper()
	c, err := net.ListenPacket("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = c.WriteTo([]byte(name+" "+string(buf[:n])), from)
		}
	}()
	return netip.MustParseAddrPort(c.LocalAddr().String())
}

func greet(t *testing.T, addr string) (string, error) {
	t.Helper()
	c, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return "", err
	}
	defer c.Close()
	b, err := io.ReadAll(c)
	return string(b), err
}

func TestConnectTCP(t *testing.T) {
	d := start(t, node(t))
	for family, addrs := range map[string][2]string{
		"v4": {"127.0.0.1:0", "10.96.0.10:80"},
		"v6": {"[::1]:0", "[fd00:96::10]:80"},
	} {
		t.Run(family, func(t *testing.T) {
			a, b := greeter(t, addrs[0], "a"), greeter(t, addrs[0], "b")
			f := frontend(addrs[1], tcp)
			publish(t, d, 1, f, Block{Cluster: []netip.AddrPort{a, b}})
			seen := map[string]int{}
			for range 64 {
				name, err := greet(t, addrs[1])
				if err != nil {
					t.Fatal(err)
				}
				seen[name]++
			}
			if seen["a"] == 0 || seen["b"] == 0 {
				t.Errorf("64 connections went to %v, want both backends", seen)
			}
			if err := d.Services.DeleteFrontend(f); err != nil {
				t.Fatal(err)
			}
			d.Services.Retire(1)
		})
	}
}

// TestMappedConnect is what a dual-stack program does: an IPv6 socket with a v4-mapped peer.
func TestMappedConnect(t *testing.T) {
	d := start(t, node(t))
	a := greeter(t, "127.0.0.1:0", "a")
	publish(t, d, 1, frontend("10.96.0.11:80", tcp), Block{Cluster: []netip.AddrPort{a}})
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	peer := &unix.SockaddrInet6{Port: 80, Addr: netip.MustParseAddr("10.96.0.11").As16()}
	if err := unix.Connect(fd, peer); err != nil {
		t.Fatalf("connect to the v4-mapped frontend: %v", err)
	}
}

func TestRejectWithoutEndpoints(t *testing.T) {
	cfg := node(t)
	d := start(t, cfg)
	publish(t, d, 1, frontend("10.96.0.12:80", tcp), Block{})
	publish(t, d, 2, frontend("[fd00:96::12]:80", tcp), Block{})
	publish(t, d, 3, frontend("10.96.0.12:53", udp), Block{})
	for _, addr := range []string{"10.96.0.12:80", "[fd00:96::12]:80"} {
		if _, err := greet(t, addr); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("connect to %s: %v, want connection refused", addr, err)
		}
	}
	c, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, err = c.WriteTo([]byte("x"), net.UDPAddrFromAddrPort(netip.MustParseAddrPort("10.96.0.12:53")))
	// Without bpf_set_retval the datagram goes to a closed port, and an unconnected socket does not hear of that.
	if has, probeErr := haveSetRetval(); probeErr != nil || has == 1 && !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("send a datagram: %v, want connection refused (probe: %v)", err, probeErr)
	}
}

// TestUDP holds a connected and an unconnected socket: both see replies come from the frontend they asked, and stay
// on one backend until it is no longer offered.
func TestUDP(t *testing.T) {
	d := start(t, node(t))
	for family, addrs := range map[string][2]string{
		"v4": {"127.0.0.1:0", "10.96.0.13:53"},
		"v6": {"[::1]:0", "[fd00:96::13]:53"},
	} {
		t.Run(family, func(t *testing.T) {
			backends := map[string]netip.AddrPort{"a": echo(t, addrs[0], "a"), "b": echo(t, addrs[0], "b")}
			f := frontend(addrs[1], udp)
			publish(t, d, 1, f, Block{Cluster: []netip.AddrPort{backends["a"], backends["b"]}})

			connected, err := net.Dial("udp", addrs[1])
			if err != nil {
				t.Fatal(err)
			}
			defer connected.Close()
			exchange(t, connected.(*net.UDPConn), nil, f.Addr)

			c, err := net.ListenPacket("udp", addrs[0])
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			conn := c.(*net.UDPConn)
			first := exchange(t, conn, &f.Addr, f.Addr)
			for range 16 {
				if got := exchange(t, conn, &f.Addr, f.Addr); got != first {
					t.Fatalf("datagram went to %s, the ones before to %s", got, first)
				}
			}
			other := map[string]string{"a": "b", "b": "a"}[first]
			publish(t, d, 1, f, Block{Cluster: []netip.AddrPort{backends[first], backends[other]}})
			if got := exchange(t, conn, &f.Addr, f.Addr); got != first {
				t.Errorf("a new block that still offers %s moved the socket to %s", first, got)
			}
			publish(t, d, 1, f, Block{Cluster: []netip.AddrPort{backends[other]}})
			if got := exchange(t, conn, &f.Addr, f.Addr); got != other {
				t.Errorf("datagram went to %s, which is no longer offered", got)
			}
		})
	}
}

// exchange sends a datagram, checks where the reply comes from and returns the name of the backend that sent it.
func exchange(t *testing.T, c *net.UDPConn, to *netip.AddrPort, want netip.AddrPort) string {
	t.Helper()
	var err error
	if to == nil {
		_, err = c.Write([]byte("hello"))
	} else {
		_, err = c.WriteToUDPAddrPort([]byte("hello"), *to)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	n, from, err := c.ReadFromUDPAddrPort(buf)
	if err != nil {
		t.Fatal(err)
	}
	if from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port()); from != want {
		t.Errorf("reply came from %s, want %s", from, want)
	}
	name, _, _ := strings.Cut(string(buf[:n]), " ")
	return name
}

func TestGetpeernameUDP(t *testing.T) {
	d := start(t, node(t))
	publish(t, d, 1, frontend("10.96.0.14:53", udp), Block{Cluster: []netip.AddrPort{echo(t, "127.0.0.1:0", "a")}})
	c, err := net.Dial("udp", "10.96.0.14:53")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := c.RemoteAddr().String(); got != "10.96.0.14:53" {
		t.Errorf("the socket's peer reads %s, want the frontend", got)
	}
}

// TestRestart closes the agent's handles and opens the pins again: traffic goes on in between, and the new process
// finds what the old one published and continues from it.
func TestRestart(t *testing.T) {
	cfg := node(t)
	a, b := greeter(t, "127.0.0.1:0", "a"), greeter(t, "127.0.0.1:0", "b")
	f := frontend("10.96.0.15:80", tcp)
	old, err := Load(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := old.Attach(); err != nil {
		t.Fatal(err)
	}
	publish(t, old, 3, f, Block{Cluster: []netip.AddrPort{a}})
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	if name, err := greet(t, "10.96.0.15:80"); err != nil || name != "a" {
		t.Fatalf("without an agent: %q, %v", name, err)
	}
	d := start(t, cfg)
	entries, err := d.Services.Entries()
	if err != nil || len(entries) != 1 || entries[0] != (Entry{f, ClusterIP, 3}) {
		t.Fatalf("the new agent reads %v, %v", entries, err)
	}
	if blk, ok := d.Services.Block(3); !ok || len(blk.Cluster) != 1 || blk.Cluster[0] != a {
		t.Fatalf("the new agent reads block %v, %v", blk, ok)
	}
	publish(t, d, 3, f, Block{Cluster: []netip.AddrPort{b}})
	if err := d.Services.Reclaim(); err != nil {
		t.Fatal(err)
	}
	if name, err := greet(t, "10.96.0.15:80"); err != nil || name != "b" {
		t.Fatalf("after the new agent's publish: %q, %v", name, err)
	}
}

// dnsListener answers "node" to every datagram.
func dnsListener(t *testing.T) net.PacketConn {
	t.Helper()
	l, err := net.ListenPacket("udp", "127.0.0.53:53")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		buf := make([]byte, 100)
		for {
			_, from, err := l.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = l.WriteTo([]byte("node "), from)
		}
	}()
	return l
}

// steered starts a datapath whose frontend 10.96.0.16:53 goes to the node's DNS first, and returns who answers there.
func steered(t *testing.T, cfg Config) (d *Datapath, ask func() string) {
	t.Helper()
	d = start(t, cfg)
	f := frontend("10.96.0.16:53", udp)
	publish(t, d, 1, f, Block{Cluster: []netip.AddrPort{echo(t, "127.0.0.1:0", "cluster")}, NodeDNS: true})
	return d, func() string {
		c, err := net.Dial("udp", "10.96.0.16:53")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return exchange(t, c.(*net.UDPConn), nil, f.Addr)
	}
}

// TestNodeDNS steers to the node's listener exactly as long as it listens and the agent says that it serves.
func TestNodeDNS(t *testing.T) {
	cfg := node(t)
	cfg.NodeDNS = []netip.Addr{netip.MustParseAddr("127.0.0.53")}
	d, ask := steered(t, cfg)
	listener := dnsListener(t)
	if got := ask(); got != "cluster" {
		t.Errorf("before the agent serves %s answered", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	held, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- d.HoldDNS(ctx, func() { close(held) }) }()
	<-held
	if got := ask(); got != "node" {
		t.Errorf("with a listener %s answered", got)
	}
	listener.Close()
	if got := ask(); got != "cluster" {
		t.Errorf("after the listener closed %s answered", got)
	}
	dnsListener(t)
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if got := ask(); got != "cluster" {
		t.Errorf("after the agent stopped serving %s answered", got)
	}
}

func awaitHolder(t *testing.T, d *Datapath) {
	t.Helper()
	// Whoever is to hold it loads the programs first, and may have this processor only.
	for deadline := time.Now().Add(2 * time.Minute); atomic.LoadUint64(&d.lifeline[0]) == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nobody holds the lifeline")
		}
	}
}

// TestNodeDNSAgentKilled kills an agent, a process of its own, while the listening socket stays: steering ends.
func TestNodeDNSAgentKilled(t *testing.T) {
	cfg := node(t)
	cfg.NodeDNS = []netip.Addr{netip.MustParseAddr("127.0.0.53")}
	d, ask := steered(t, cfg)
	dnsListener(t)
	agent := exec.Command("/proc/self/exe")
	agent.Env = append(os.Environ(), agentEnv+"="+cfg.PinDir)
	agent.Stderr = os.Stderr
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	awaitHolder(t, d)
	if got := ask(); got != "node" {
		t.Errorf("while the agent lives %s answered", got)
	}
	if err := agent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := agent.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("the agent ended by itself: %v", err)
	}
	if got := ask(); got != "cluster" {
		t.Errorf("after the agent was killed %s answered", got)
	}
}

// beAgent is what the process of TestNodeDNSAgentKilled does.
func beAgent(pins string) error {
	d, err := Load(Config{PinDir: pins, CgroupRoot: os.Getenv(insideEnv)})
	if err != nil {
		return err
	}
	// A program that waits for nothing at all is a deadlock to the Go runtime, and would end by itself.
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	return d.HoldDNS(ctx, func() {})
}

// TestAtomicPublish flips one record between two blocks under load: no connection fails and none goes elsewhere.
func TestAtomicPublish(t *testing.T) {
	d := start(t, node(t))
	a, b := greeter(t, "127.0.0.1:0", "a"), greeter(t, "127.0.0.1:0", "b")
	f := frontend("10.96.0.17:80", tcp)
	publish(t, d, 1, f, Block{Cluster: []netip.AddrPort{a}})
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			blk := Block{Cluster: []netip.AddrPort{a}}
			if i%2 == 0 {
				blk = Block{Cluster: []netip.AddrPort{b, b, b, b, b}}
			}
			if err := errors.Join(d.Services.Publish(1, blk), d.Services.Reclaim()); err != nil {
				done <- err
				return
			}
		}
	}()
	for range 500 {
		if name, err := greet(t, "10.96.0.17:80"); err != nil || (name != "a" && name != "b") {
			t.Fatalf("connection during a publish: %q, %v", name, err)
		}
	}
	close(stop)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestPods(t *testing.T) {
	d := start(t, node(t))
	pod := Pod{Addrs: []netip.Addr{netip.MustParseAddr("10.0.1.5"), netip.MustParseAddr("fd00::5")}, NetNSCookie: 77}
	pod.Link, pod.Side, pod.Slot = 5, 6, 7
	if err := d.Pods.Put(pod); err != nil {
		t.Fatal(err)
	}
	got, ok, err := d.Pods.Lookup(pod.Addrs[1])
	want := pod
	want.Addrs, want.Number = pod.Addrs[1:], 1
	if err != nil || !ok || !reflect.DeepEqual(got, want) {
		t.Fatalf("look up the pod: %v, %v, %v", got, ok, err)
	}
	if err := d.Pods.SetScope(append([]netip.Addr{netip.MustParseAddr("10.0.1.6")}, pod.Addrs...), 9); err != nil {
		t.Fatal(err)
	}
	want.Scope = 9
	last, lastErr := d.Pods.LastScope()
	if got, _, err := d.Pods.Lookup(pod.Addrs[1]); err != nil || !reflect.DeepEqual(got, want) || last != 9 || lastErr != nil {
		t.Errorf("after another scope: %v, %v; the last is %d, %v", got, err, last, lastErr)
	}
	if _, ok, err := d.Pods.Lookup(netip.MustParseAddr("10.0.1.6")); ok || err != nil {
		t.Errorf("a scope made a pod: %v", err)
	}
	for range 2 {
		if err := d.Pods.Delete(pod.Addrs); err != nil {
			t.Fatal(err)
		}
	}
	if _, ok, err := d.Pods.Lookup(pod.Addrs[0]); ok || err != nil {
		t.Errorf("a deleted pod is still there: %v", err)
	}
}

// TestOtherCgroup starts an agent whose cgroup is not the one that the pinned links are attached to.
func TestOtherCgroup(t *testing.T) {
	cfg := node(t)
	elsewhere := filepath.Join(cfg.CgroupRoot, "elsewhere")
	if err := os.Mkdir(elsewhere, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(elsewhere)
	home := cfg.CgroupRoot
	cfg.CgroupRoot = elsewhere
	start(t, cfg)
	cfg.CgroupRoot = home
	publish(t, start(t, cfg), 1, frontend("10.96.0.18:80", tcp), Block{})
	if _, err := greet(t, "10.96.0.18:80"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("the programs are not attached to the new cgroup: %v", err)
	}
}

// TestSharedBackend has one socket talk to one backend under three names; each reply shows the name that was asked.
func TestSharedBackend(t *testing.T) {
	d := start(t, node(t))
	backend := echo(t, "127.0.0.1:0", "a")
	first, second := frontend("10.96.0.21:53", udp), frontend("10.96.0.22:53", udp)
	publish(t, d, 1, first, Block{Cluster: []netip.AddrPort{backend}})
	publish(t, d, 2, second, Block{Cluster: []netip.AddrPort{backend}})
	c, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, to := range []netip.AddrPort{first.Addr, second.Addr, first.Addr, backend, second.Addr} {
		exchange(t, c.(*net.UDPConn), &to, to)
	}
}

// TestMappedUDP is a dual-stack program's socket: IPv6, talking to IPv4 in v4-mapped form.
func TestMappedUDP(t *testing.T) {
	d := start(t, node(t))
	f := frontend("10.96.0.23:53", udp)
	publish(t, d, 1, f, Block{Cluster: []netip.AddrPort{echo(t, "127.0.0.1:0", "a")}})
	c, err := net.ListenPacket("udp", "[::]:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	exchange(t, c.(*net.UDPConn), &f.Addr, f.Addr)
}

// TestRoomOfReplacedBlocks publishes more cells than there are, one record after another: what was replaced is room.
func TestRoomOfReplacedBlocks(t *testing.T) {
	cfg := node(t)
	cfg.BlockCells = 640
	d := start(t, cfg)
	backends := make([]netip.AddrPort, 200)
	for i := range backends {
		backends[i] = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 80)
	}
	for i := range uint32(10) {
		if err := d.Services.Publish(i%2, Block{Cluster: backends}); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Services.Publish(3, Block{Cluster: slices.Concat(backends, backends)}); !errors.Is(err, ErrFull) {
		t.Errorf("a block larger than the room was taken with %v, want ErrFull", err)
	}
	if b, ok := d.Services.Block(1); !ok || len(b.Cluster) != len(backends) {
		t.Error("a refused block took another one's cells")
	}
}

func TestLoadWithoutBPFFS(t *testing.T) {
	if _, err := Load(Config{PinDir: filepath.Join(t.TempDir(), "nearpath")}); err == nil || !strings.Contains(err.Error(), "mount -t bpf") {
		t.Errorf("pins outside a bpffs: %v, want the command that mounts one", err)
	}
}

// TestAfterClose: a request that comes late must not touch unmapped memory.
func TestAfterClose(t *testing.T) {
	d, err := Load(node(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Services.Publish(1, Block{}); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if _, ok := d.Services.Block(1); ok {
		t.Error("a closed datapath still has a block")
	}
	d.Services.Retire(1)
	if err := d.Services.Publish(1, Block{}); err == nil {
		t.Error("a closed datapath took a block")
	}
}
