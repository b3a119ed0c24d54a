package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/nearpath/nearpath/cni"
	"github.com/nearpath/nearpath/internal/agentapi"
)

// A statusAgent answers STATUS only.
type statusAgent struct {
	socket string
	ready  atomic.Bool
	asked  atomic.Int32
}

func startStatusAgent(t *testing.T, ready bool) *statusAgent {
	t.Helper()
	a := &statusAgent{socket: filepath.Join(t.TempDir(), "agent.sock")}
	a.ready.Store(ready)
	api := agentapi.NewServer(agentapi.ServerConfig{Socket: a.socket, Log: slog.New(slog.DiscardHandler), CNI: a.answer})
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
	return a
}

func (a *statusAgent) answer(_ context.Context, r agentapi.CNIRequest) agentapi.CNIResponse {
	a.asked.Add(1)
	_, err := cni.ParseNetConf(r.Config)
	if r.Command != "STATUS" || err != nil {
		return agentapi.CNIResponse{Error: &agentapi.CNIError{Code: 7, Msg: fmt.Sprintf("%s: %v", r.Command, err)}}
	}
	if !a.ready.Load() {
		return agentapi.CNIResponse{Error: &agentapi.CNIError{Code: 50, Msg: "not ready: address pool"}}
	}
	return agentapi.CNIResponse{}
}

// A hostFiles is where a test installs to.
type hostFiles struct{ from, bin, conf string }

func newHostFiles(t *testing.T) hostFiles {
	t.Helper()
	h := hostFiles{t.TempDir(), t.TempDir(), t.TempDir()}
	writeFile(t, filepath.Join(h.from, "nearpath-cni"), "plugin")
	return h
}

func (h hostFiles) install(t *testing.T, socket string, more ...string) (string, error) {
	t.Helper()
	args := []string{"cni", "install", "--from", h.from, "--bin-dir", h.bin, "--conf-dir", h.conf, "--socket", socket}
	return execute(t, append(args, more...)...)
}

func (h hostFiles) plugin() string { return filepath.Join(h.bin, "nearpath-cni") }
func (h hostFiles) list() string   { return filepath.Join(h.conf, defaultConfName) }

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func TestInstall(t *testing.T) {
	t.Parallel()
	agent, h := startStatusAgent(t, true), newHostFiles(t)
	out, err := h.install(t, agent.socket)
	if err != nil || !strings.Contains(out, h.plugin()) || !strings.Contains(out, h.list()) {
		t.Fatalf("%v: %s", err, out)
	}
	before, _ := os.Stat(h.plugin())
	if out, err := h.install(t, agent.socket); err != nil || out != "" {
		t.Errorf("the second time: %v: %s", err, out)
	}
	if after, _ := os.Stat(h.plugin()); !os.SameFile(before, after) || after.Mode() != pluginMode {
		t.Error("the plugin was replaced by itself")
	}
	list, err := libcni.ConfListFromFile(h.list())
	if err != nil || list.CNIVersion != "1.1.0" || list.Plugins[0].Network.Type != cni.PluginType {
		t.Fatalf("%+v, %v", list, err)
	}
}

// TestInstallNeedsThePlugin: a configuration whose plugin is missing fails every pod.
func TestInstallNeedsThePlugin(t *testing.T) {
	t.Parallel()
	agent, h := startStatusAgent(t, true), newHostFiles(t)
	h.from = t.TempDir()
	if _, err := h.install(t, agent.socket); err == nil || !strings.Contains(err.Error(), "--from") {
		t.Errorf("install without a plugin: %v, want what names it", err)
	}
	if names := filesIn(t, h.conf); len(names) > 0 {
		t.Errorf("a configuration without a plugin: %v", names)
	}
}

// TestInstallWaitsForTheAgent: a configuration that comes before its agent makes the node Ready for pods that then fail.
func TestInstallWaitsForTheAgent(t *testing.T) {
	t.Parallel()
	agent, h := startStatusAgent(t, false), newHostFiles(t)
	if _, err := h.install(t, agent.socket); err == nil || !strings.Contains(err.Error(), "address pool") {
		t.Errorf("install before the agent is ready: %v", err)
	}
	if _, err := h.install(t, filepath.Join(t.TempDir(), "none.sock")); !errors.Is(err, agentapi.ErrUnavailable) {
		t.Errorf("install without an agent: %v", err)
	}
	if !exists(h.plugin()) || exists(h.list()) {
		t.Errorf("plugin there: %v, configuration there: %v; want the first only", exists(h.plugin()), exists(h.list()))
	}
	done := make(chan error, 1)
	asked := agent.asked.Load()
	go func() {
		_, err := h.install(t, agent.socket, "--wait", "1m")
		done <- err
	}()
	for deadline := time.Now().Add(20 * time.Second); agent.asked.Load() < asked+2; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the agent is not asked")
		}
	}
	if exists(h.list()) {
		t.Error("the configuration is there before the agent is ready")
	}
	agent.ready.Store(true)
	if err := <-done; err != nil || !exists(h.list()) {
		t.Errorf("%v, configuration there: %v", err, exists(h.list()))
	}
}

// TestConfigurationStays: a node that loses it becomes NotReady, so neither an upgrade nor an agent that is away or not
// ready takes it off.
func TestConfigurationStays(t *testing.T) {
	t.Parallel()
	agent, h := startStatusAgent(t, false), newHostFiles(t)
	writeFile(t, h.list(), "of an older version")
	writeFile(t, filepath.Join(h.from, "nearpath-cni"), "newer plugin")
	if _, err := h.install(t, agent.socket); err == nil {
		t.Error("install with an agent that is not ready succeeds")
	}
	if text, err := os.ReadFile(h.list()); err != nil || string(text) != "of an older version" {
		t.Errorf("the configuration is %q, %v", text, err)
	}
	if text, err := os.ReadFile(h.plugin()); err != nil || string(text) != "newer plugin" {
		t.Errorf("the plugin is %q, %v", text, err)
	}
}

// TestInstallPluginOnly is what an init container does that has one directory of the node: the agent writes the rest.
func TestInstallPluginOnly(t *testing.T) {
	t.Parallel()
	h := newHostFiles(t)
	if _, err := h.install(t, filepath.Join(t.TempDir(), "none.sock"), "--conf-dir", ""); err != nil || !exists(h.plugin()) {
		t.Errorf("%v, plugin there: %v", err, exists(h.plugin()))
	}
}

// TestOthersThatComeFirst: the runtime takes the first by name, and the other one's file is not ours to remove.
func TestOthersThatComeFirst(t *testing.T) {
	t.Parallel()
	const other = `{"cniVersion": "1.0.0", "name": "other", "plugins": [{"type": "bridge"}]}`
	for name, tt := range map[string]struct {
		text   string
		shadow bool
	}{
		"00-other.conflist":  {other, true},
		"01-other.conf":      {`{"cniVersion": "1.0.0", "name": "other", "type": "bridge"}`, true},
		"02-broken.conflist": {`{`, true}, // some runtimes fail on it
		"03-old.json":        {`{"name": "x", "type": "ptp"}`, true},
		"00-multus.conf":     {`{"name": "multus-cni-network", "type": "multus-shim"}`, false}, // calls ours by itself
		"04-notes.txt":       {other, false},
		".05-x.conflist.ab":  {other, false},
		"99-other.conflist":  {other, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			agent, h := startStatusAgent(t, true), newHostFiles(t)
			writeFile(t, filepath.Join(h.conf, name), tt.text)
			_, err := h.install(t, agent.socket)
			if (err != nil) != tt.shadow || err != nil && !strings.Contains(err.Error(), name) {
				t.Errorf("install beside %s: %v", name, err)
			}
			if text, _ := os.ReadFile(filepath.Join(h.conf, name)); string(text) != tt.text || !exists(h.list()) {
				t.Errorf("the other one's file holds %q; ours is there: %v", text, exists(h.list()))
			}
		})
	}
}

// TestConflist: the plugin reads what the configuration has it be told, and a runtime of any version finds one it knows.
func TestConflist(t *testing.T) {
	t.Parallel()
	list, err := libcni.NetworkConfFromBytes(conflistOf("/run/elsewhere/agent.sock"))
	if err != nil {
		t.Fatal(err)
	}
	if list.Name != networkName || len(list.Plugins) != 1 || !strings.Contains(string(list.Plugins[0].Bytes), "/run/elsewhere/agent.sock") {
		t.Errorf("%+v", list)
	}
	if strings.Contains(string(conflistOf(agentapi.DefaultSocket)), "socket") {
		t.Error("a socket where none is needed")
	}
	told := map[string]any{
		"portMappings":                      []map[string]any{{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}},
		"bandwidth":                         map[string]any{"ingressRate": 1000000, "ingressBurst": 1, "egressRate": 2000000, "egressBurst": 1},
		"dns":                               map[string]any{"servers": []string{"10.96.0.10"}, "searches": []string{"a.svc.cluster.local"}, "options": []string{"ndots:5"}},
		"io.kubernetes.cri.pod-annotations": map[string]string{"nearpath.io/datapath": "veth"},
	}
	for name := range capabilities {
		if told[name] == nil {
			t.Errorf("no example for %s", name)
		}
	}
	maps.DeleteFunc(told, func(name string, _ any) bool { return !capabilities[name] })
	// As libcni makes it of the list and what the runtime knows (injectRuntimeConfig).
	plugin, err := libcni.InjectConf(list.Plugins[0], map[string]any{
		"cniVersion": list.CNIVersion, "name": list.Name, "runtimeConfig": told,
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cni.ParseNetConf(plugin.Bytes); err != nil {
		t.Errorf("the plugin refuses its own configuration: %v\n%s", err, plugin.Bytes)
	}
}

// A fakeNode notes the order in which it is cleaned.
type fakeNode struct {
	wired int
	fail  error
	steps []string
	h     hostFiles
}

func (n *fakeNode) note(what string) error {
	n.steps = append(n.steps, fmt.Sprintf("%s (configuration %v, plugin %v)", what, exists(n.h.list()), exists(n.h.plugin())))
	return n.fail
}

func (n *fakeNode) cleaner(running bool) nodeCleaner {
	return nodeCleaner{
		lock: func() (func(), error) {
			if running {
				return nil, errors.New("it runs")
			}
			return func() {}, nil
		},
		pods:     func() (int, error) { return n.wired, nil },
		handBack: func(context.Context) error { return n.note("services") },
		programs: func() error { return n.note("programs") },
		network:  func(context.Context) error { return n.note("network") },
	}
}

// TestUninstall: the configuration goes first, so that no pod comes any more, and the plugin last, and it can be repeated.
func TestUninstall(t *testing.T) {
	t.Parallel()
	h := newHostFiles(t)
	i := installation{binDir: h.bin, confDir: h.conf, confName: defaultConfName, out: new(strings.Builder)}
	fill := func() {
		writeFile(t, h.plugin(), "plugin")
		writeFile(t, h.list(), string(conflistOf(agentapi.DefaultSocket)))
		writeFile(t, filepath.Join(h.conf, ".05-nearpath.conflist.0123456789abcdef"), "left by a crash")
	}
	fill()
	if err := i.uninstall(t.Context(), true, (&fakeNode{h: h}).cleaner(true)); err == nil || !exists(h.list()) {
		t.Errorf("uninstall under a running agent: %v", err)
	}
	var usage usageError
	if err := i.uninstall(t.Context(), false, (&fakeNode{h: h, wired: 3}).cleaner(false)); !errors.As(err, &usage) || !exists(h.list()) {
		t.Errorf("uninstall with pods: %v", err)
	}
	broken := &fakeNode{h: h, fail: errors.New("busy")}
	if err := i.uninstall(t.Context(), false, broken.cleaner(false)); !errors.Is(err, broken.fail) || !exists(h.plugin()) || len(broken.steps) != 3 {
		t.Errorf("uninstall with a step that fails: %v after %v", err, broken.steps)
	}
	fill()
	want := []string{"services (configuration false, plugin true)", "programs (configuration false, plugin true)", "network (configuration false, plugin true)"}
	for range 2 {
		n := &fakeNode{h: h, wired: 3}
		if err := i.uninstall(t.Context(), true, n.cleaner(false)); err != nil {
			t.Fatal(err)
		}
		if len(filesIn(t, h.bin))+len(filesIn(t, h.conf)) != 0 || want != nil && !slices.Equal(n.steps, want) {
			t.Errorf("left: %v, %v; order %v", filesIn(t, h.bin), filesIn(t, h.conf), n.steps)
		}
		want = nil // the second time nothing is there
	}
	if err := os.Remove(h.conf); err != nil {
		t.Fatal(err)
	}
	if err := i.uninstall(t.Context(), false, (&fakeNode{h: h}).cleaner(false)); err != nil || exists(h.conf) {
		t.Errorf("uninstall without directories: %v", err)
	}
}

// TestUninstallLeavesOthers: a file of our name that configures another plugin is not ours.
func TestUninstallLeavesOthers(t *testing.T) {
	t.Parallel()
	h := newHostFiles(t)
	i := installation{binDir: h.bin, confDir: h.conf, confName: defaultConfName, out: new(strings.Builder)}
	writeFile(t, h.list(), `{"cniVersion": "1.0.0", "name": "other", "plugins": [{"type": "bridge"}]}`)
	if err := i.uninstall(t.Context(), false, (&fakeNode{h: h}).cleaner(false)); err == nil || !exists(h.list()) {
		t.Errorf("%v, the other one's file is there: %v", err, exists(h.list()))
	}
}
