package main

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type keeperTest struct {
	*confKeeper
	status   error
	warnings []string
}

func newKeeperTest(t *testing.T) *keeperTest {
	t.Helper()
	k := &keeperTest{status: errors.New("not ready")}
	c := defaultConfig()
	c.CNI.ConfDir = t.TempDir()
	k.confKeeper = newConfKeeper(c, func() error { return k.status }, func(reason, message string) {
		k.warnings = append(k.warnings, reason+": "+message)
	}, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	return k
}

// TestKeeperWritesLast: nothing is written before a pod can be added, and what is there from before stays.
func TestKeeperWritesLast(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		k := newKeeperTest(t)
		k.cni.ConfDir = dir
		writeFile(t, k.path(), "older")
		go k.Run(t.Context())
		time.Sleep(time.Minute)
		if text, _ := os.ReadFile(k.path()); string(text) != "older" || k.written() {
			t.Errorf("before the agent is ready the file holds %q, written %v", text, k.written())
		}
		k.status = nil
		time.Sleep(confFirst)
		synctest.Wait()
		if text, _ := os.ReadFile(k.path()); string(text) != string(k.text) || !k.written() {
			t.Errorf("the file holds %q, written %v", text, k.written())
		}
		if n := value(t, k.restored); n != 0 || len(k.warnings) > 0 {
			t.Errorf("%v restores, warnings %v", n, k.warnings)
		}
		// From here on it is put back, also when no pod can be added at the moment.
		k.status = errors.New("pool is away")
		_ = os.Remove(k.path())
		time.Sleep(confEvery)
		synctest.Wait()
		if !exists(k.path()) || value(t, k.restored) != 1 {
			t.Error("the file is not put back")
		}
	})
}

// TestKeeperDoesNotFight: whoever removes the file again and again is told of, and wins for a while.
func TestKeeperDoesNotFight(t *testing.T) {
	t.Parallel()
	k := newKeeperTest(t)
	now := time.Now()
	k.pass(t.Context(), now)
	writes := 0
	for range 100 {
		if err := os.Remove(k.path()); err == nil {
			writes++
		}
		now = now.Add(confEvery)
		k.pass(t.Context(), now)
	}
	if writes != 1+confRestores || exists(k.path()) {
		t.Errorf("written %d times in 200 s, want %d", writes, 1+confRestores)
	}
	if len(k.warnings) != 1 || !strings.HasPrefix(k.warnings[0], "CNIConfigNotWritten: ") || value(t, k.current) != 0 {
		t.Errorf("warnings %q", k.warnings)
	}
	k.pass(t.Context(), now.Add(confWindow))
	if !exists(k.path()) || value(t, k.current) != 1 {
		t.Error("the file does not come back when the other one has stopped")
	}
}

// TestKeeperTellsOfShadows: once each, and again when it comes back.
func TestKeeperTellsOfShadows(t *testing.T) {
	t.Parallel()
	k := newKeeperTest(t)
	other := filepath.Join(k.cni.ConfDir, "00-other.conflist")
	for i, step := range []struct {
		there    bool
		warnings int
	}{{false, 0}, {true, 1}, {true, 1}, {false, 1}, {true, 2}} {
		_ = os.Remove(other)
		if step.there {
			writeFile(t, other, `{"cniVersion": "1.0.0", "name": "other", "plugins": [{"type": "bridge"}]}`)
		}
		k.pass(t.Context(), time.Now())
		want := map[bool]float64{true: 1}[step.there]
		if len(k.warnings) != step.warnings || value(t, k.shadows) != want || exists(other) != step.there {
			t.Errorf("step %d: warnings %q, metric %v", i, k.warnings, value(t, k.shadows))
		}
	}
	if !strings.Contains(k.warnings[0], "CNIConfigShadowed") || !strings.Contains(k.warnings[0], "00-other.conflist") {
		t.Errorf("warning %q", k.warnings[0])
	}
}

// TestKeeperCannotWrite: that is told, and everything else goes on.
func TestKeeperCannotWrite(t *testing.T) {
	t.Parallel()
	k := newKeeperTest(t)
	k.cni.ConfDir = filepath.Join(k.cni.ConfDir, "file", "below")
	writeFile(t, filepath.Dir(k.cni.ConfDir), "a file where a directory should be")
	k.pass(t.Context(), time.Now())
	k.pass(t.Context(), time.Now())
	if k.written() || len(k.warnings) != 1 || value(t, k.current) != 0 {
		t.Errorf("written %v, warnings %q", k.written(), k.warnings)
	}
}
