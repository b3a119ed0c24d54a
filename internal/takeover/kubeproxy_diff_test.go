//go:build diff

package takeover

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/test/netlab"
)

// objects are what kube-proxy gets: a dual-stack Service with a node port, whose endpoint is the server.
const objects = `
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec:
  type: NodePort
  clusterIPs: [10.96.0.10, "fd00:96::10"]
  ipFamilies: [IPv4, IPv6]
  ports: [{name: http, protocol: TCP, port: 80, nodePort: 30080}, {name: dns, protocol: UDP, port: 53, nodePort: 30053}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-4, namespace: default, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, protocol: TCP, port: 8080}, {name: dns, protocol: UDP, port: 8053}]
endpoints: [{addresses: [10.2.0.2], nodeName: other, conditions: {ready: true}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-6, namespace: default, labels: {kubernetes.io/service-name: web}}
addressType: IPv6
ports: [{name: http, protocol: TCP, port: 8080}, {name: dns, protocol: UDP, port: 8053}]
endpoints: [{addresses: ["fd00:2::2"], nodeName: other, conditions: {ready: true}}]
`

// kubeProxy has the real kube-proxy write its rules; NEARPATH_KUBEPROXY is test/diff/kubeproxy, built.
func (l *lane) kubeProxy(t *testing.T, mode string) {
	t.Helper()
	exe := os.Getenv("NEARPATH_KUBEPROXY")
	if exe == "" {
		t.Fatal("NEARPATH_KUBEPROXY does not say where kube-proxy's driver is: run make test-diff")
	}
	l.run(t, l.node, objects, exe, "-mode", mode, "-node", "this", "-node-ips", "10.1.0.1,fd00:1::1", "-manifests", "-")
}

// A datapath is nearpath on the lane's node, for the processes of a cgroup of its own.
type datapath struct {
	*bpf.Datapath
	cgroup string
	pins   string
}

func (l *lane) nearpath(t *testing.T) datapath {
	t.Helper()
	root, err := netlab.CgroupRoot()
	if err != nil {
		t.Fatal(err)
	}
	d := datapath{cgroup: filepath.Join(root, "nearpath-takeover"), pins: filepath.Join(l.lab.Dir(), "bpf", "pins")}
	// Of a test that was killed the cgroup is left; the lab takes away what is mounted in its directory.
	if err := errors.Join(ifThere(os.Remove(d.cgroup)), os.Mkdir(d.cgroup, 0o755), os.Mkdir(filepath.Dir(d.pins), 0o700)); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("bpf", filepath.Dir(d.pins), "bpf", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := l.node.Do(func() error { return bpf.Remove(d.pins) })
		if err := errors.Join(err, unix.Unmount(filepath.Dir(d.pins), 0), os.Remove(d.cgroup)); err != nil {
			t.Error(err)
		}
	})
	l.do(t, l.node, func() error {
		cookie, err := bpf.NetNSCookie()
		if err != nil {
			return err
		}
		d.Datapath, err = bpf.Load(bpf.Config{PinDir: d.pins, CgroupRoot: d.cgroup, HostNetNSCookie: cookie})
		return err
	})
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func ifThere(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// serve publishes the Service and attaches the programs of sockets and, on the link to the client, of packets.
func (d datapath) serve(t *testing.T, l *lane) {
	t.Helper()
	var node []netip.Addr
	for i, f := range families {
		node = append(node, netip.MustParseAddr(f.nodeToClient), netip.MustParseAddr(f.nodeToServer))
		for j, p := range []struct {
			proto              uint8
			port, node, target uint16
		}{{6, 80, 30080, 8080}, {17, 53, 30053, 8053}} {
			record := uint32(1 + 2*i + j)
			block := bpf.Block{Cluster: []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr(f.backend), p.target)}}
			wild := netip.IPv4Unspecified()
			if f.v6 {
				wild = netip.IPv6Unspecified()
			}
			if err := errors.Join(
				d.Services.Publish(record, block),
				d.Services.PutFrontend(bpf.Frontend{Addr: netip.AddrPortFrom(netip.MustParseAddr(f.vip), p.port), Protocol: p.proto}, bpf.ClusterIP, record),
				d.Services.PutFrontend(bpf.Frontend{Addr: netip.AddrPortFrom(wild, p.node), Protocol: p.proto}, bpf.NodePort, record),
			); err != nil {
				t.Fatal(err)
			}
		}
	}
	l.do(t, l.node, func() error {
		link, err := net.InterfaceByName("cli")
		if err != nil {
			return err
		}
		return errors.Join(d.SetNodeAddresses(node), d.Attach(), d.AttachLink(bpf.Uplink, link.Index))
	})
}

// greet has a process of the cgroup ask the Service, and returns what it hears.
func (d datapath) greet(t *testing.T, l *lane, vip string) string {
	t.Helper()
	script := fmt.Sprintf(`echo $$ > %s/cgroup.procs && exec 3<>/dev/tcp/%s/80 && echo hello >&3 && timeout 2 head -n 1 <&3`, d.cgroup, vip)
	var text []byte
	l.do(t, l.node, func() error {
		text, _ = exec.Command("timeout", "5", "bash", "-c", script).CombinedOutput()
		return nil
	})
	return strings.TrimSpace(string(text))
}

// TestRealKubeProxy: H8, there and back, with what kube-proxy itself writes.
func TestRealKubeProxy(t *testing.T) {
	for _, mode := range []string{"nftables", "iptables"} {
		t.Run("H8 "+mode, func(t *testing.T) {
			l := newLane(t)
			l.serve(t)
			l.kubeProxy(t, mode)
			talks := l.talks(t)
			for _, f := range families { // by the node port, from outside
				address := net.JoinHostPort(f.nodeToClient, "30080")
				conn, err := l.dial("tcp", address, l.client)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { conn.Close() })
				talks = append(talks, talk{"client -> node port " + address, conn})
			}
			echo := func(when string) {
				t.Helper()
				for _, c := range talks {
					if err := c.echo(when); err != nil {
						t.Errorf("%s: %v", when, err)
					}
				}
			}
			greeted := func(when string, d datapath) {
				t.Helper()
				for _, f := range families {
					if got := d.greet(t, l, f.vip); got != "hello" {
						t.Errorf("%s, a new connection to %s: %q", when, f.vip, got)
					}
				}
			}
			echo("by-kube-proxy")
			d := l.nearpath(t)
			greeted("kube-proxy alone", d)
			d.serve(t, l)
			// Datagrams from outside have no first packet by which nearpath could tell that they are not its own (docs/limits.md).
			talks = slices.DeleteFunc(talks, func(c talk) bool { return strings.HasPrefix(c.name, "client -> udp") })
			echo("beside-it")
			task, events := l.task(t, nil)
			l.look(t, task)
			if there, err := programmed(l); there || err != nil {
				t.Errorf("kube-proxy's rules are there after the take-over: %v", err)
			}
			echo("taken-over")
			greeted("taken over", d)
			l.unanswered(t, "10.96.0.10:80", "somebody else still translates")
			if len(*events) > 0 {
				t.Errorf("events: %v", *events)
			}

			// Back: kube-proxy first, then nearpath lets go, at last its programs.
			l.kubeProxy(t, mode)
			if there, err := programmed(l); !there || err != nil {
				t.Errorf("kube-proxy's rules are not seen: %v", err)
			}
			if err := bpf.HandBack(d.pins); err != nil {
				t.Fatal(err)
			}
			echo("handed-back")
			greeted("handed back", d)
			l.do(t, l.node, func() error { return errors.Join(bpf.Remove(d.pins), RemoveKeeper()) })
			echo("without-nearpath")
			greeted("without nearpath", d)
			if conn, err := l.dial("tcp", "10.96.0.10:80", l.client); err != nil {
				t.Errorf("kube-proxy serves again: %v", err)
			} else {
				conn.Close()
			}

			// And once more to the end: nothing of kube-proxy's name is left but what the kubelet makes, too.
			for _, c := range talks {
				c.conn.Close()
			}
			again, _ := l.task(t, nil)
			l.look(t, again)
			l.do(t, l.node, func() error { _, err := forget(again.old); return err })
			l.look(t, again)
			wantNone(t, "at the end", kubelets(l.left(t)))
		})
	}
}
