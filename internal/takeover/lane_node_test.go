//go:build node || diff

package takeover

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nearpath/nearpath/test/netlab"
)

// A lane is a node between a client and a server, with a Service that only kube-proxy's rules serve. The node has no
// route to the Service's address but one that leads nowhere.
type lane struct {
	lab                  *netlab.Lab
	where                map[string]string // programs, whatever PATH says
	node, client, server *netlab.NetNS
}

type family struct {
	v6                                bool
	vip, backend, clientIP            string
	nodeToClient, nodeToServer, block string
}

var families = []family{
	{false, "10.96.0.10", "10.2.0.2", "10.1.0.2", "10.1.0.1", "10.2.0.1", "10.96.0.0/16"},
	{true, "fd00:96::10", "fd00:2::2", "fd00:1::2", "fd00:1::1", "fd00:2::1", "fd00:96::/64"},
}

func newLane(t *testing.T) *lane {
	t.Helper()
	lab, err := netlab.New("takeover")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	l := &lane{lab: lab, where: map[string]string{}}
	for _, name := range []string{
		"nft", "iptables-legacy-save", "ip6tables-legacy-save", "iptables-legacy-restore", "ip6tables-legacy-restore",
		"iptables-nft-restore", "ip6tables-nft-restore",
	} {
		if l.where[name], err = exec.LookPath(name); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range map[string]**netlab.NetNS{"node": &l.node, "client": &l.client, "server": &l.server} {
		if *to, err = lab.NetNS(name); err != nil {
			t.Fatal(err)
		}
		// Neighbours are asked from addresses of the links, which need not be tried first.
		l.run(t, *to, "", "sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0")
	}
	ip := func(ns *netlab.NetNS, args string) {
		t.Helper()
		l.run(t, ns, "", "ip", strings.Fields(args)...)
	}
	ip(l.node, "link add cli type veth peer name eth0 netns "+l.client.Name())
	ip(l.node, "link add srv type veth peer name eth0 netns "+l.server.Name())
	for _, link := range []string{"cli", "srv"} {
		ip(l.node, "link set "+link+" up")
	}
	ip(l.client, "link set eth0 up")
	ip(l.server, "link set eth0 up")
	for _, f := range families {
		bits := map[bool]string{false: "/24", true: "/64"}[f.v6]
		ip(l.node, "addr add "+f.nodeToClient+bits+" dev cli nodad")
		ip(l.node, "addr add "+f.nodeToServer+bits+" dev srv nodad")
		ip(l.client, "addr add "+f.clientIP+bits+" dev eth0 nodad")
		ip(l.server, "addr add "+f.backend+bits+" dev eth0 nodad")
		ip(l.client, "route add default via "+f.nodeToClient)
		ip(l.server, "route add default via "+f.nodeToServer)
		ip(l.node, "route add default via "+f.backend) // the node's own packets must get as far as the rules
	}
	l.run(t, l.node, "", "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	return l
}

func (l *lane) do(t *testing.T, ns *netlab.NetNS, f func() error) {
	t.Helper()
	if err := ns.Do(f); err != nil {
		t.Fatal(err)
	}
}

func (l *lane) run(t *testing.T, ns *netlab.NetNS, input, name string, args ...string) string {
	t.Helper()
	var text string
	l.do(t, ns, func() error {
		cmd := exec.Command(cmp.Or(l.where[name], name), args...)
		cmd.Stdin = strings.NewReader(input)
		out, err := cmd.CombinedOutput()
		if text = string(out); err != nil {
			return fmt.Errorf("%s: %w: %s", cmd, err, out)
		}
		return nil
	})
	return text
}

// rules are a file of testdata for one family.
func rules(t *testing.T, file, policy string, f family) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	name, addr, bracketed := "ip", "ipv4_addr", f.backend
	if f.v6 {
		name, addr, bracketed = "ip6", "ipv6_addr", "["+f.backend+"]"
	}
	return strings.NewReplacer("FAMILY", name, "ADDRTYPE", addr, "VIP", f.vip, "BACKEND", f.backend, "BRACKETED", bracketed, "POLICY", policy).Replace(string(text))
}

// program writes kube-proxy's rules in one of its modes.
func (l *lane) program(t *testing.T, mode, policy string) {
	t.Helper()
	for _, f := range families {
		prefix := map[bool]string{false: "ip", true: "ip6"}[f.v6]
		switch mode {
		case "nftables":
			l.run(t, l.node, rules(t, "testdata/kube-proxy.nft", policy, f), "nft", "-f", "-")
		case "iptables-nft", "iptables-legacy":
			tool := prefix + "tables-" + strings.TrimPrefix(mode, "iptables-") + "-restore"
			l.run(t, l.node, rules(t, "testdata/kube-proxy.iptables", policy, f), tool)
		}
	}
}

// tools leaves these programs alone in PATH.
func (l *lane) tools(t *testing.T, names ...string) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		if err := os.Symlink(l.where[name], filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir)
}

// left is what has one of kube-proxy's names.
func (l *lane) left(t *testing.T) (out []string) {
	t.Helper()
	text := l.run(t, l.node, "", "nft", "--stateless", "list", "ruleset") + l.run(t, l.node, "", "iptables-legacy-save") + l.run(t, l.node, "", "ip6tables-legacy-save")
	for line := range strings.Lines(text) {
		if strings.Contains(line, "KUBE-") || strings.Contains(line, "kube-proxy") || strings.Contains(line, keeperTable) {
			out = append(out, strings.TrimSpace(line))
		}
	}
	return out
}

// A talk is a connection whose server echoes lines.
type talk struct {
	name string
	conn net.Conn
}

func (c talk) echo(text string) error {
	if err := c.conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(c.conn, text); err != nil {
		return fmt.Errorf("%s: %w", c.name, err)
	}
	got, err := bufio.NewReader(c.conn).ReadString('\n')
	if err != nil || strings.TrimSpace(got) != text {
		return fmt.Errorf("%s: got %q, %w", c.name, got, err)
	}
	return nil
}

func (l *lane) serve(t *testing.T) {
	t.Helper()
	l.do(t, l.server, func() error {
		tcp, err := net.Listen("tcp", ":8080")
		if err != nil {
			return err
		}
		t.Cleanup(func() { tcp.Close() })
		go func() {
			for {
				conn, err := tcp.Accept()
				if err != nil {
					return
				}
				go func() {
					defer conn.Close()
					for in := bufio.NewScanner(conn); in.Scan(); {
						fmt.Fprintln(conn, in.Text())
					}
				}()
			}
		}()
		for _, f := range families {
			udp, err := net.ListenPacket("udp", net.JoinHostPort(f.backend, "8053"))
			if err != nil {
				return err
			}
			t.Cleanup(func() { udp.Close() })
			go func() {
				b := make([]byte, 1500)
				for {
					n, from, err := udp.ReadFrom(b)
					if err != nil {
						return
					}
					_, _ = udp.WriteTo(b[:n], from)
				}
			}()
		}
		return nil
	})
}

func (l *lane) dial(network, address string, from *netlab.NetNS) (conn net.Conn, err error) {
	err = errors.Join(from.Do(func() (err error) {
		conn, err = net.DialTimeout(network, address, 2*time.Second)
		return err
	}))
	return conn, err
}

// unanswered fails the test if the client can connect to an address. What answers here does within a millisecond.
func (l *lane) unanswered(t *testing.T, address, or string) {
	t.Helper()
	l.do(t, l.client, func() error {
		conn, err := net.DialTimeout("tcp", address, 200*time.Millisecond)
		if err == nil {
			conn.Close()
			t.Error(or)
		}
		return nil
	})
}

// talks opens connections of every kind to the Service: through the node and from it.
func (l *lane) talks(t *testing.T) (out []talk) {
	t.Helper()
	for _, f := range families {
		for where, ns := range map[string]*netlab.NetNS{"client": l.client, "node": l.node} {
			for network, port := range map[string]string{"tcp": "80", "udp": "53"} {
				address := net.JoinHostPort(f.vip, port)
				conn, err := l.dial(network, address, ns)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { conn.Close() })
				c := talk{fmt.Sprint(where, " -> ", network, " ", address), conn}
				if err := c.echo("hello"); err != nil {
					t.Fatal(err)
				}
				out = append(out, c)
			}
		}
	}
	return out
}

type event struct{ reason, message string }

func (l *lane) task(t *testing.T, change func(*Config)) (*Task, *[]event) {
	t.Helper()
	var events []event
	cfg := Config{
		Running: func() (string, error) { return "", nil }, HostRoot: "/", Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
		Warn: func(reason, message string) { events = append(events, event{reason, message}) },
	}
	if change != nil {
		change(&cfg)
	}
	task, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	task.absent = time.Now().Add(-time.Hour)
	return task, &events
}

func (l *lane) look(t *testing.T, task *Task) {
	t.Helper()
	l.do(t, l.node, func() error { return task.look(t.Context()) })
}

func programmed(l *lane) (there bool, err error) {
	err = errors.Join(l.node.Do(func() (err error) { there, err = Programmed(context.Background()); return err }))
	return there, err
}

func wantNone(t *testing.T, when string, left []string) {
	t.Helper()
	if len(left) > 0 {
		t.Errorf("%s there is:\n%s", when, strings.Join(left, "\n"))
	}
}

// kubelets drops the lines about chains that are the kubelet's.
func kubelets(left []string) (out []string) {
	for _, line := range left {
		if !strings.Contains(line, "KUBE-FIREWALL") && !strings.Contains(line, "KUBE-KUBELET-CANARY") && !strings.Contains(line, "KUBE-IPTABLES-HINT") {
			out = append(out, line)
		}
	}
	return out
}
