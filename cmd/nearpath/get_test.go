package main

import (
	"bytes"
	"context"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/internal/agentapi"
)

// serveViews answers get with fixed views, as an agent would.
func serveViews(t *testing.T, views map[string]any) (socket string) {
	t.Helper()
	return serveAPI(t, func(api *agentapi.Server) {
		for noun, view := range views {
			api.Handle(nouns[noun].path, func(context.Context) (any, error) { return view, nil })
		}
	})
}

// serveAPI answers with what register registers.
func serveAPI(t *testing.T, register func(*agentapi.Server)) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "agent.sock")
	api := agentapi.NewServer(agentapi.ServerConfig{Socket: socket, Log: slog.New(slog.DiscardHandler)})
	register(api)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- api.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	<-api.Ready()
	return socket
}

func execute(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	root := newRoot()
	root.SetOut(&out)
	root.SetErr(&out)
	root.SetArgs(args)
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}

func TestServedBackends(t *testing.T) {
	t.Parallel()
	one, two := netip.MustParseAddrPort("10.0.0.1:80"), netip.MustParseAddrPort("10.0.0.2:80")
	for name, tt := range map[string]struct {
		kind   bpf.FrontendKind
		change func(*bpf.Block)
		policy string
	}{
		"cluster IP":                    {bpf.ClusterIP, func(*bpf.Block) {}, "Cluster"},
		"cluster IP, internal Local":    {bpf.ClusterIP, func(b *bpf.Block) { b.InternalLocal = true }, "Local"},
		"cluster IP, external Local":    {bpf.ClusterIP, func(b *bpf.Block) { b.ExternalLocal = true }, "Cluster"},
		"node port":                     {bpf.NodePort, func(*bpf.Block) {}, "Cluster"},
		"node port, internal Local":     {bpf.NodePort, func(b *bpf.Block) { b.InternalLocal = true }, "Cluster"},
		"node port, external Local":     {bpf.NodePort, func(b *bpf.Block) { b.ExternalLocal = true }, "Local"},
		"host port, whose own block is": {bpf.HostPort, func(b *bpf.Block) { b.ExternalLocal = true }, "Local"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := bpf.Block{Cluster: []netip.AddrPort{two, one}, Local: []netip.AddrPort{two}}
			tt.change(&b)
			want := map[string]string{"Cluster": "10.0.0.1:80 10.0.0.2:80", "Local": "10.0.0.2:80"}[tt.policy]
			if got, policy := servedBackends(tt.kind, b); policy != tt.policy || strings.Join(got, " ") != want {
				t.Errorf("%v by policy %s, want %s by %s", got, policy, want, tt.policy)
			}
		})
	}
}

func TestGet(t *testing.T) {
	t.Parallel()
	socket := serveViews(t, map[string]any{
		"pods": []podView{{Namespace: "shop", Name: "web-0", Addresses: []string{"10.0.64.2", "fd00::2"}, ENI: "eni-1", Datapath: "ipvlan", Path: "sockets"}},
		"enis": []eniView{{ID: "eni-1", MAC: "02:00:00:00:00:01", VSwitch: "vsw-1", State: "in-use", Slot: 1, Pods: 1, Addresses: []string{"10.0.64.2"}}},
		"pool": poolView{
			Capacity: capacityView{10, 2}, Shared: addressesView{Used: 3, Kept: 1, Idle: 2, Cooling: 4, Pending: 5, Waiting: 6}, Quarantine: 1,
			VSwitches: []vSwitchView{{ID: "vsw-1", Zone: "zone-a", Free: 7, ENIs: 1, Breaker: "open", Error: "full"}},
		},
		"ready": readyView{},
	})
	for noun, want := range map[string]string{
		"pods": "NAMESPACE  NAME   ADDRESSES          DATAPATH  PATH     ENI\nshop       web-0  10.0.64.2 fd00::2  ipvlan    sockets  eni-1\n",
		"enis": "ENI    MAC                VSWITCH  STATE   SLOT  PODS  ADDRESSES\neni-1  02:00:00:00:00:01  vsw-1    in-use  1     1     10.0.64.2\n",
		"pool": "KIND       CAPACITY  USED  KEPT  IDLE  COOLING  PENDING  WAITING\nshared     10        3     1     2     4        5        6\n" +
			"exclusive  2         0     0     0     0        0        0\n\nVSWITCH  ZONE    FREE  ENIS  BREAKER  ERROR\nvsw-1    zone-a  7     1     open     full\n" +
			"\n0 addresses not known to be unused, 1 not confirmed by the cloud\n",
		"ready": "ready\n",
	} {
		got, err := execute(t, "get", noun, "--socket", socket)
		if err != nil || got != want {
			t.Errorf("get %s: %v\n%s\nwant\n%s", noun, err, got, want)
		}
	}
	if got, err := execute(t, "get", "pods", "-o", "json", "--socket", socket); err != nil || !strings.Contains(got, `"addresses":["10.0.64.2","fd00::2"]`) {
		t.Errorf("get pods -o json: %v\n%s", err, got)
	}
	if _, err := execute(t, "get", "pods", "-o", "xml", "--socket", socket); err == nil || !strings.Contains(err.Error(), "xml") {
		t.Errorf("get pods -o xml: %v", err)
	}
}

func TestGetNotReady(t *testing.T) {
	t.Parallel()
	socket := serveViews(t, map[string]any{"ready": readyView{Waiting: []string{"node DNS"}}})
	if _, err := execute(t, "get", "ready", "--socket", socket); err == nil || !strings.Contains(err.Error(), "node DNS") {
		t.Errorf("get ready: %v, want the task that is not ready", err)
	}
}

func TestGetWithoutAgent(t *testing.T) {
	t.Parallel()
	_, err := execute(t, "get", "pods", "--socket", filepath.Join(t.TempDir(), "none.sock"))
	if err == nil || !strings.Contains(err.Error(), "agent is not running") {
		t.Errorf("get pods: %v, want that no agent runs", err)
	}
}
