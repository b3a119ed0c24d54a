//go:build node

package bpf

import (
	"errors"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// BenchmarkSocket reports what the programs cost a call, as the kernel counts it (BPF_ENABLE_STATS), beside the whole call.
// Nobody of those who are called has a route, so no packet comes of it.
func BenchmarkSocket(b *testing.B) {
	pins := b.TempDir()
	if err := unix.Mount("bpf", pins, "bpf", 0, ""); err != nil {
		b.Fatal(err)
	}
	defer unix.Unmount(pins, 0)
	cookie, err := NetNSCookie()
	if err != nil {
		b.Fatal(err)
	}
	d, err := Load(Config{PinDir: pins + "/nearpath", CgroupRoot: os.Getenv(insideEnv), HostNetNSCookie: cookie})
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	if err := errors.Join(d.Attach(), benchServices(d)); err != nil {
		b.Fatal(err)
	}
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		b.Fatal(err)
	}
	defer stats.Close()
	for _, c := range []struct {
		name    string
		program *ebpf.Program
		proto   int
		to      string
		pod     bool
	}{
		{"no Service", d.objs.Connect4, tcp, "198.51.100.1", false},
		{"ClusterIP", d.objs.Connect4, tcp, "10.96.0.1", false},
		{"no Service, from a pod", d.objs.Connect4, tcp, "198.51.100.1", true},
		{"ClusterIP, from a pod", d.objs.Connect4, tcp, "10.96.0.1", true},
		{"affinity", d.objs.Connect4, tcp, "10.96.0.2", true},
		{"source ranges", d.objs.Connect4, tcp, "203.0.113.1", true},
		{"datagram, no Service", d.objs.Sendmsg4, udp, "198.51.100.1", true},
		{"datagram, pinned", d.objs.Sendmsg4, udp, "10.96.0.1", true},
	} {
		b.Run(c.name, func(b *testing.B) {
			call := func() error { return benchCalls(b, c.program, c.proto, netip.MustParseAddr(c.to).As4()) }
			enter := func() error { return nil }
			if c.pod {
				enter = func() error {
					if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
						return err
					}
					cookie, err := NetNSCookie()
					if err != nil {
						return err
					}
					return d.Pods.Put(Pod{Addrs: addrs([]string{"10.1.0.5"}), NetNSCookie: cookie})
				}
			}
			if err := in(enter, call); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// benchServices are one of each kind that the calls are made to.
func benchServices(d *Datapath) error {
	var backends []netip.AddrPort
	for i := range 10 {
		backends = append(backends, netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(10 + i)}), 8080))
	}
	s := d.Services
	return errors.Join(
		s.Publish(1, Block{Cluster: backends}),
		s.PutFrontend(frontend("10.96.0.1:80", tcp), ClusterIP, 1), s.PutFrontend(frontend("10.96.0.1:80", udp), ClusterIP, 1),
		s.Publish(2, Block{Cluster: backends, Affinity: 3 * time.Hour}), s.PutFrontend(frontend("10.96.0.2:80", tcp), ClusterIP, 2),
		s.Publish(3, Block{Cluster: backends, SourceRanges: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}),
		s.PutFrontend(frontend("203.0.113.1:80", tcp), LoadBalancer, 3),
	)
}

func benchCalls(b *testing.B, program *ebpf.Program, proto int, to [4]byte) error {
	b.Helper()
	kind := unix.SOCK_STREAM
	if proto == udp {
		kind = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	peer := &unix.SockaddrInet4{Addr: to, Port: 80}
	before, err := program.Stats()
	if err != nil {
		return err
	}
	runtime.LockOSThread()
	b.ResetTimer()
	for range b.N {
		if proto == udp {
			err = unix.Sendto(fd, nil, 0, peer)
		} else {
			err = unix.Connect(fd, peer)
		}
		if !errors.Is(err, unix.ENETUNREACH) {
			return errors.New("a call went somewhere: " + err.Error())
		}
	}
	b.StopTimer()
	after, err := program.Stats()
	if err != nil {
		return err
	}
	b.ReportMetric(float64(after.Runtime-before.Runtime)/float64(after.RunCount-before.RunCount), "ns/run")
	return nil
}
