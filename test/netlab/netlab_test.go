package netlab

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseMounts(t *testing.T) {
	text := strings.Join([]string{
		`22 27 0:21 / /proc rw,relatime - proc proc rw`,
		`41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 master:1 - cgroup2 cgroup2 rw`,
		`50 31 0:38 / /mnt/a\040b\134c rw - ext4 /dev/sda\0401 rw`,
		`torn line`,
		`1 2 3 - x`,
		``,
	}, "\n")
	want := []mount{
		{Point: "/proc", Type: "proc", Source: "proc"},
		{Point: "/sys/fs/cgroup/unified", Type: "cgroup2", Source: "cgroup2"},
		{Point: `/mnt/a b\c`, Type: "ext4", Source: "/dev/sda 1"},
	}
	if diff := cmp.Diff(want, parseMounts(text)); diff != "" {
		t.Errorf("mounts (-want +got):\n%s", diff)
	}
}

func FuzzParseMounts(f *testing.F) {
	f.Add("22 27 0:21 / /proc rw,relatime - proc proc rw\n")
	f.Add(" - \n- - -")
	f.Fuzz(func(t *testing.T, text string) {
		if got := len(parseMounts(text)); got > strings.Count(text, "\n")+1 {
			t.Errorf("%d mounts from %d lines", got, strings.Count(text, "\n")+1)
		}
	})
}

func TestInventoryDiff(t *testing.T) {
	inventory := func(items ...string) Inventory {
		inv := Inventory{items: make(map[string]bool)}
		for _, item := range items {
			kind, name, _ := strings.Cut(item, " ")
			inv.add(kind, name)
		}
		return inv
	}
	before := inventory("link lo", "netns /run/netns/a", "mount /x (bpf)")
	after := inventory("link lo", "mount /x (bpf)", "link npabc", "cgroup /c/lab-n1")
	want := []string{"+ cgroup /c/lab-n1", "+ link npabc", "- netns /run/netns/a"}
	if diff := cmp.Diff(want, before.Diff(after)); diff != "" {
		t.Errorf("difference (-want +got):\n%s", diff)
	}
	if got := before.Containing("lab").Diff(after.Containing("lab")); !cmp.Equal(got, want[:1]) {
		t.Errorf("difference within lab: %v", got)
	}
}

func TestMissingNamesPackages(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	got := strings.Join(Missing(), "\n")
	for _, want := range []string{"unshare: util-linux", "nsenter: util-linux", "mount: util-linux (Debian: mount)"} {
		if !strings.Contains(got, want) {
			t.Errorf("missing programs do not say %q:\n%s", want, got)
		}
	}
}

func TestPrefixRule(t *testing.T) {
	for prefix, ok := range map[string]bool{
		"demo": true, "np-1": true, "": false, "-a": false, "a-": false, "A": false, "a/b": false, "a,b": false, "a:b": false, "a.b": false,
	} {
		if nameRule.MatchString(prefix) != ok {
			t.Errorf("prefix %q allowed: %t, want %t", prefix, !ok, ok)
		}
	}
}

func TestParseStat(t *testing.T) {
	for text, want := range map[string]struct {
		state string
		group int
	}{
		"12 (sh) S 1 12 12 0 -1":            {"S", 12},
		"12 (a) b (c) ) Z 1 77 12 0 -1":     {"Z", 77},
		"12 (torn":                          {"", 0},
		"":                                  {"", 0},
		"12 (sh) R 1 not-a-number 12 0 -1 ": {"R", 0},
	} {
		if state, group := parseStat(text); state != want.state || group != want.group {
			t.Errorf("%q: state %q, group %d, want %+v", text, state, group, want)
		}
	}
}
