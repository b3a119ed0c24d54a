package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
)

// TestPublisherReload: the syncer follows its file. A change counts at once and deletes nothing that the guard would hold,
// and a file that is wrong, or that nobody can start with, changes nothing.
func TestPublisherReload(t *testing.T) {
	t.Parallel()
	r := newPublishRig(t, nil)
	for i := range 15 {
		name := fmt.Sprint("web-", i)
		r.put(t, name, serviceAt(name, name+".corp.example", fmt.Sprint("10.96.0.", i+1)))
	}
	dir := t.TempDir()
	path, socket := filepath.Join(dir, "config.yaml"), "socket: "+filepath.Join(dir, "s.sock")
	write := func(text string) {
		t.Helper()
		writeFile(t, path+".new", text)
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	change := func(lines ...string) { write(r.configText(t, append([]string{socket}, lines...)...)) }
	var log syncBuffer
	level := new(slog.LevelVar)
	f := newPublisherFile(path, false, level, slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: level})))
	f.every = 5 * time.Millisecond
	good := func() bool {
		var m dto.Metric
		return f.good.Write(&m) == nil && m.GetGauge().GetValue() == 1
	}

	change("names: {sources: [service], excludeNamespaces: [shop]}")
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("it ended with %v", err)
		}
	})
	status := func() zoneStatusView {
		st, _ := zoneVerb[zoneStatusView](t, strings.TrimPrefix(socket, "socket: "), "status")
		return st
	}
	listed := func() bool {
		st := status()
		return st.Synced && len(st.Zones) == 2 && st.Zones[0].Listed && st.Zones[1].Listed
	}
	r.until(t, "the zones", listed)
	if n := r.writes(); n > 0 {
		t.Fatalf("%d writes for a namespace that is left out", n)
	}

	change()
	r.until(t, "the names, once their namespace is not left out", func() bool { return len(r.PrivateZone().Records(corpZone)) == 15 })

	for what, text := range map[string]string{
		"no YAML": "ownerID: [", "a wrong key": r.configText(t, socket, "policy: everything"), "what cannot be begun with": r.configText(t, socket, "manifests: ''", "kubeconfig: /nowhere"),
	} {
		write(text)
		r.until(t, what+" to be refused", func() bool { return !good() })
		r.until(t, "the last good configuration", listed)
		name := "after-" + strings.ReplaceAll(what, " ", "-")
		r.put(t, name, serviceAt(strings.ToLower(name), strings.ToLower(name)+".corp.example", "10.96.1.1"))
		r.until(t, "a name after "+what, func() bool { return r.resolves(t, strings.ToLower(name)+".corp.example", "10.96.1.1") })
		change("hintInterval: 2s")
		r.until(t, "a good one to be taken", good)
	}

	writes := r.writes()
	change("ownerID: other")
	r.until(t, "another owner", func() bool {
		st := status() // has no zones while the syncer starts anew
		return listed() && len(st.Zones) == 2 && st.Zones[0].Owned+st.Zones[1].Owned == 0
	})
	change("names: {sources: [service], excludeNamespaces: [shop]}")
	r.until(t, "deletes that are held", func() bool { return len(status().Holds) == 1 })
	if n := r.writes() - writes; n > 0 || len(r.PrivateZone().Records(corpZone)) != 18 {
		t.Errorf("%d writes because of another owner and of names that are left out", n)
	}
	log.take()
	change("names: {sources: [service], excludeNamespaces: [shop]}", "logLevel: debug")
	r.until(t, "another level", func() bool { return level.Level() == slog.LevelDebug })
	if said := log.take(); strings.Contains(said, "syncer starts") {
		t.Errorf("the level of the log needed a start: %s", said)
	}
}
