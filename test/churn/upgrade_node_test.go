//go:build node

package churn

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/nearpath/nearpath/internal/agentapi"
	"github.com/nearpath/nearpath/test/cloudlab"
	"github.com/nearpath/nearpath/test/netlab"
)

// upgradePorts are the Service ports that the load asks while agents come and go.
const upgradePorts = 200

// A host is a node of a simulated cloud with agents of several builds, one at a time.
type host struct {
	lab     *netlab.Lab
	node    *netlab.Node
	api     *agentapi.Client
	agent   *netlab.Process
	program string
	has     set
	of      map[uint32]history
}

func newHost(t *testing.T) *host {
	t.Helper()
	h := &host{lab: newLab(t, "upgrade"), has: 0xff, of: map[uint32]history{}}
	cloud, err := cloudlab.Start(h.lab, slog.New(slog.DiscardHandler))
	ok(t, err)
	t.Cleanup(func() { ok(t, cloud.Close()) })
	machine, err := cloud.Machine(t.Context(), "node")
	ok(t, err)
	h.node, err = h.lab.StartNode(netlab.NodeSpec{Name: "node", NetNS: machine.NetNS})
	ok(t, err)
	h.api = agentapi.NewClient(h.node.MachinePath(agentapi.DefaultSocket))
	ok(t, os.Mkdir(h.manifests(), 0o755))
	var services strings.Builder
	for i := range uint32(upgradePorts) {
		services.WriteString(serviceManifest(i))
		h.of[i] = history{{set: h.has}}
		if i > 0 {
			services.WriteString(sliceManifest(i, h.has))
		}
	}
	h.write(t, "services.yaml", services.String())
	h.write(t, "target.yaml", sliceManifest(0, h.has))
	ok(t, os.WriteFile(h.config(), []byte(cloud.AgentConfig("node")+fmt.Sprintf("manifests: %s\nstateDir: %s\n", h.manifests(), filepath.Join(h.node.Dir(), "state"))), 0o644))
	t.Cleanup(func() {
		if t.Failed() {
			text, err := os.ReadFile(h.logFile())
			t.Logf("the agent's log ends (%v):\n%s", err, text[max(0, len(text)-5000):])
		}
	})
	return h
}

func (h *host) manifests() string { return filepath.Join(h.node.Dir(), "manifests") }
func (h *host) config() string    { return filepath.Join(h.node.Dir(), "config.yaml") }
func (h *host) logFile() string   { return filepath.Join(h.node.Dir(), "agent.log") }

// write replaces a manifest whole.
func (h *host) write(t *testing.T, name, text string) {
	t.Helper()
	draft := filepath.Join(h.manifests(), ".draft")
	ok(t, os.WriteFile(draft, []byte(text), 0o644))
	ok(t, os.Rename(draft, filepath.Join(h.manifests(), name)))
}

func serviceManifest(i uint32) string {
	return fmt.Sprintf(`---
apiVersion: v1
kind: Service
metadata: {name: %s, namespace: default}
spec:
  clusterIP: %[2]s
  clusterIPs: [%[2]s]
  ports: [{name: tcp, protocol: TCP, port: %[3]d}, {name: udp, protocol: UDP, port: %[3]d}]
`, name(i).Name, clusterIP(i), servicePort)
}

func sliceManifest(i uint32, s set) string {
	var endpoints strings.Builder
	for n := range endpointsEach {
		if s.has(n) {
			fmt.Fprintf(&endpoints, "- {addresses: [%s], nodeName: elsewhere}\n", endpointAddr(i, n))
		}
	}
	return fmt.Sprintf(`---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: %[1]s, namespace: default, labels: {kubernetes.io/service-name: %[1]s}}
addressType: IPv4
ports: [{name: tcp, protocol: TCP, port: %[2]d}, {name: udp, protocol: UDP, port: %[2]d}]
endpoints:
%[3]s`, name(i).Name, backendPort, endpoints.String())
}

// start starts an agent, one with other programs or not, and waits until it serves.
func (h *host) start(t *testing.T, other bool) {
	t.Helper()
	log, err := os.OpenFile(h.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	ok(t, err)
	defer log.Close()
	cmd := h.node.Command(context.WithoutCancel(t.Context()), h.program, "agent", "--config", h.config())
	if other {
		cmd.Env = append(os.Environ(), otherEnv+"=1")
	}
	cmd.Stdout, cmd.Stderr = log, log
	h.agent, err = h.lab.Start(cmd)
	ok(t, err)
	await(t, "the agent", func() error {
		select {
		case <-h.agent.Done():
			t.Fatalf("the agent ended: %v", h.agent.Err())
		default:
		}
		var view struct{ Waiting []string }
		err := h.api.Get(t.Context(), "/v1/ready", &view)
		if err == nil && len(view.Waiting) > 0 {
			err = fmt.Errorf("it waits for %v", view.Waiting)
		}
		return err
	})
}

// change takes an endpoint of the target away, or brings it back, and waits until the agent has noticed.
func (h *host) change(t *testing.T, n int) {
	t.Helper()
	h.has ^= 1 << n
	h.of[0] = append(h.of[0], change{now(), h.has})
	h.write(t, "target.yaml", sliceManifest(0, h.has))
	await(t, "the change", func() error {
		var view json.RawMessage
		if err := h.api.Get(t.Context(), "/v1/frontends", &view); err != nil {
			return err
		}
		if strings.Contains(string(view), endpointAddr(0, n).String()+":") != h.has.has(n) {
			return errors.New("the kernel has the old endpoints")
		}
		return nil
	})
}

// A loaded is what is attached for connect().
type loaded struct {
	link link.ID
	id   ebpf.ProgramID
	tag  string
}

func (h *host) connectProgram(t *testing.T) (l loaded) {
	t.Helper()
	pinned, err := link.LoadPinnedLink(h.node.MachinePath("/sys/fs/bpf/nearpath/v2/links/connect4"), nil)
	ok(t, err)
	defer pinned.Close()
	about, err := pinned.Info()
	ok(t, err)
	program, err := ebpf.NewProgramFromID(about.Program)
	ok(t, err)
	defer program.Close()
	it, err := program.Info()
	ok(t, err)
	return loaded{about.ID, about.Program, it.Tag}
}

// TestH6AgentsComeAndGo kills, stops, restarts and upgrades the agent, to another program and back, under load: no connection
// fails, none is reset, and the programs are those of the agent that runs (H6).
func TestH6AgentsComeAndGo(t *testing.T) {
	const plain, other = false, true
	h := newHost(t)
	h.program = buildAgent(t)
	addBackends(t, h.lab, h.node)
	h.start(t, plain)
	h.change(t, 8)
	began := h.connectProgram(t)
	load := startLoad(t, h.lab, h.node, plan{rate: connections, services: upgradePorts, long: 50, datagram: 20})
	var absent []absence
	for i, next := range []struct {
		name  string
		other bool // programs are those of the other agent
		end   func()
		same  bool // as the program before
	}{
		{"killed", plain, h.kill, true},
		{"stopped", plain, h.terminate(t), true},
		{"killed and upgraded", other, h.kill, false},
		{"killed and restarted", other, h.kill, true},
		{"stopped and downgraded", plain, h.terminate(t), false},
	} {
		before := h.connectProgram(t)
		gone := absence{from: now()}
		next.end()
		time.Sleep(time.Second) // without an agent
		h.start(t, next.other)
		gone.to = now()
		absent = append(absent, gone)
		after := h.connectProgram(t)
		t.Logf("%s: program %d (%s) before, %d (%s) after; no agent for %s", next.name, before.id, before.tag, after.id, after.tag, time.Duration(gone.to-gone.from).Round(time.Millisecond))
		if after.id == before.id || (after.tag == before.tag) != next.same {
			t.Errorf("%s: program %v before, %v after; another tag: %t wanted", next.name, before, after, !next.same)
		}
		if after.link != before.link {
			t.Errorf("%s: link %d before, %d after: between the two there may be none", next.name, before.link, after.link)
		}
		h.change(t, i)
	}
	picks, took := load.stop(t)
	if last := h.connectProgram(t); last.tag != began.tag {
		t.Errorf("program %v at the end, %v at the beginning", last, began)
	}
	v := judge(t, picks, h.of, grace{connections: took, datagrams: took, settled: took})
	t.Logf("%d connections, %.0f a second of %d, and %d while there was no agent; %d exchanges on 50 open connections; %d datagrams answered, %d UDP sockets ended",
		v.connections, float64(v.connections)/took.Seconds(), connections, during(picks, absent), v.exchanges, v.datagrams, v.reaped)
	if during(picks, absent) < 1000 || v.exchanges < 1000 || v.datagrams < 1000 {
		t.Errorf("this proves nothing: %+v", v)
	}
}

// An absence is a time without an agent.
type absence struct{ from, to int64 }

// during counts the connections made in the absences.
func during(picks []pick, absent []absence) (n int) {
	for _, p := range picks {
		if !p.UDP && !p.Long && slices.ContainsFunc(absent, func(a absence) bool { return a.from < p.Start && p.End < a.to }) {
			n++
		}
	}
	return n
}

func (h *host) kill() { h.agent.Kill() }

// terminate returns what stops the agent as its supervisor does.
func (h *host) terminate(t *testing.T) func() {
	t.Helper()
	return func() {
		// The process is nsenter, the agent is in its group.
		ok(t, syscall.Kill(-h.agent.PID(), syscall.SIGTERM))
		await(t, "the agent to stop", func() error {
			if err := syscall.Kill(-h.agent.PID(), 0); !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("its group is there: %w", err)
			}
			return nil
		})
	}
}
