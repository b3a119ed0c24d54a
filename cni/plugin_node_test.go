//go:build node

package cni

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types040 "github.com/containernetworking/cni/pkg/types/040"

	"github.com/nearpath/nearpath/internal/agentapi"
	"github.com/nearpath/nearpath/test/netlab"
)

// A runtime calls the executable through libcni, as containerd does.
type runtime struct {
	cni    *libcni.CNIConfig
	socket string
}

func newRuntime(t *testing.T) *runtime {
	t.Helper()
	bin := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(bin, PluginType), "github.com/nearpath/nearpath/cmd/nearpath-cni")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the plugin: %v\n%s", err, out)
	}
	return &runtime{
		cni:    libcni.NewCNIConfigWithCacheDir([]string{bin}, t.TempDir(), nil),
		socket: filepath.Join(t.TempDir(), "agent.sock"),
	}
}

func (r *runtime) list(t *testing.T, version string) *libcni.NetworkConfigList {
	t.Helper()
	text := fmt.Sprintf(`{"cniVersion":%q,"name":"net","plugins":[{"type":"nearpath-cni","socket":%q}]}`, version, r.socket)
	return must[*libcni.NetworkConfigList](t)(libcni.NetworkConfFromBytes([]byte(text)))
}

func attachment(name string, pod *netlab.NetNS) *libcni.RuntimeConf {
	return &libcni.RuntimeConf{
		ContainerID: name, NetNS: pod.Path(), IfName: "eth0",
		Args: [][2]string{{"K8S_POD_NAME", name}, {"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "default"}},
	}
}

// serveAgent serves the world's Server on the socket until stop.
func (w *world) serveAgent(t *testing.T, socket string) (stop func()) {
	t.Helper()
	s := agentapi.NewServer(agentapi.ServerConfig{Socket: socket, CNI: w.server.Handle, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	<-s.Ready()
	return func() {
		cancel()
		check0(t, <-done)
	}
}

func TestPluginThroughLibcni(t *testing.T) {
	w := newWorld(t)
	r := newRuntime(t)
	defer w.serveAgent(t, r.socket)()
	ctx := t.Context()
	for _, version := range []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		t.Run(version, func(t *testing.T) {
			name := "pod-" + strings.ReplaceAll(version, ".", "-")
			list := r.list(t, version)
			pod := must[*netlab.NetNS](t)(w.lab.NetNS("v" + strings.ReplaceAll(version, ".", "")))
			rt := attachment(name, pod)
			result, err := r.cni.AddNetworkList(ctx, list, rt)
			check0(t, err)
			if result.Version() != version {
				t.Errorf("result has version %s", result.Version())
			}
			if version == "0.4.0" {
				old := result.(*types040.Result)
				if len(old.IPs) != 1 || old.IPs[0].Version != "4" || len(old.Interfaces) != 2 {
					t.Errorf("converted to %+v", old)
				}
			}
			if _, err := talk(t, pod, w.node, uplinkAddr); err != nil {
				t.Error(err)
			}
			if version > "0.3.1" { // CHECK came with 0.4.0
				check0(t, r.cni.CheckNetworkList(ctx, list, rt))
			}
			if version == "1.1.0" {
				check0(t, r.cni.GetStatusNetworkList(ctx, list))
			}
			check0(t, r.cni.DelNetworkList(ctx, list, rt))
			rt.NetNS = ""
			check0(t, r.cni.DelNetworkList(ctx, list, rt))
		})
	}
	w.wantNothingLeft(t)
}

func TestPluginGC(t *testing.T) {
	w := newWorld(t)
	r := newRuntime(t)
	defer w.serveAgent(t, r.socket)()
	list := r.list(t, "1.1.0")
	for _, name := range []string{"keep", "drop"} {
		_, err := r.cni.AddNetworkList(t.Context(), list, attachment(name, must[*netlab.NetNS](t)(w.lab.NetNS(name))))
		check0(t, err)
	}

	check0(t, r.cni.GCNetworkList(t.Context(), list, &libcni.GCArgs{ValidAttachments: []types.GCAttachment{{ContainerID: "keep", IfName: "eth0"}}}))
	left := w.addresses.List()
	if len(left) != 1 || left[0].Attachment.ContainerID != "keep" {
		t.Errorf("left: %+v", left)
	}
}

func TestPluginWithoutAgent(t *testing.T) {
	w := newWorld(t)
	r := newRuntime(t)
	list := r.list(t, "1.1.0")
	pod := must[*netlab.NetNS](t)(w.lab.NetNS("a"))
	rt := attachment("a", pod)
	stop := w.serveAgent(t, r.socket)
	_, err := r.cni.AddNetworkList(t.Context(), list, rt)
	check0(t, err)
	stop()

	check0(t, r.cni.DelNetworkList(t.Context(), list, rt))
	check0(t, r.cni.DelNetworkList(t.Context(), list, rt))
	if links, _ := w.traces(t); links != 1 {
		t.Errorf("%d links while the agent is down", links)
	}
	if err := r.cni.GetStatusNetworkList(t.Context(), list); err == nil || !strings.Contains(err.Error(), "agent") {
		t.Errorf("STATUS: %v", err)
	}

	// The agent comes back, first with what was left to it.
	pending := NewPending(w.server, agentapi.PendingDir(r.socket), 10*time.Millisecond)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- pending.Run(ctx) }()
	<-pending.Ready()
	cancel()
	check0(t, <-done)
	w.wantNothingLeft(t)
	if left, err := os.ReadDir(agentapi.PendingDir(r.socket)); len(left) != 0 || err != nil {
		t.Errorf("left: %v, %v", left, err)
	}
}

// ADD waits some time for an agent that is being restarted, and then says that it may be tried again.
func TestPluginAddWaitsForTheAgent(t *testing.T) {
	w := newWorld(t)
	r := newRuntime(t)
	list := r.list(t, "1.1.0")
	pod := must[*netlab.NetNS](t)(w.lab.NetNS("a"))
	var stop func()
	started := make(chan struct{})
	timer := time.AfterFunc(300*time.Millisecond, func() {
		defer close(started)
		stop = w.serveAgent(t, r.socket)
	})
	defer timer.Stop()
	_, err := r.cni.AddNetworkList(t.Context(), list, attachment("a", pod))
	check0(t, err)
	<-started
	stop()

	short, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	began := time.Now()
	_, err = r.cni.AddNetworkList(short, list, attachment("b", must[*netlab.NetNS](t)(w.lab.NetNS("b"))))
	if took := time.Since(began); err == nil || errors.Is(err, context.DeadlineExceeded) || took < 9*time.Second || took > 20*time.Second {
		t.Errorf("after %s: %v", took, err)
	}
	if coded := new(types.Error); !errors.As(err, &coded) || coded.Code != types.ErrTryAgainLater {
		t.Errorf("error is %v, want one of code %d", err, types.ErrTryAgainLater)
	}
}
