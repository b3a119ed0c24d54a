package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nearpath/nearpath/test/vm/plan"
)

// entries reads an archive as the kernel does: by the lengths in the headers.
func entries(t *testing.T, b []byte) map[string]string {
	t.Helper()
	number := func(field int) int {
		n, err := strconv.ParseUint(string(b[6+8*field:14+8*field]), 16, 32)
		if err != nil {
			t.Fatal(err)
		}
		return int(n)
	}
	pad := func(n int) int { return (n + 3) &^ 3 }
	found := map[string]string{}
	for {
		if !bytes.HasPrefix(b, []byte("070701")) {
			t.Fatalf("no header at %q", b[:min(len(b), 16)])
		}
		mode, size, nameSize := number(1), number(6), number(11)
		name := strings.TrimSuffix(string(b[110:110+nameSize]), "\x00")
		if name == "TRAILER!!!" {
			return found
		}
		content := b[pad(110+nameSize):][:size]
		found[name] = strconv.FormatInt(int64(mode), 8) + " " + string(content)
		b = b[pad(110+nameSize)+pad(size):]
	}
}

func TestArchive(t *testing.T) {
	var b bytes.Buffer
	a := newArchive(&b)
	a.file("/usr/bin/true", 0o755, []byte("five!"))
	a.symlink("/usr/bin/false", "true")
	a.char("/dev/console", 5, 1)
	a.dir("/usr/bin")
	if err := a.close(); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"usr": "40755 ", "usr/bin": "40755 ", "usr/bin/true": "100755 five!", "usr/bin/false": "120777 true",
		"dev": "40755 ", "dev/console": "20600 ",
	}
	if diff := cmp.Diff(want, entries(t, b.Bytes())); diff != "" {
		t.Error(diff)
	}
}

func TestModules(t *testing.T) {
	index := moduleIndex{builtin: map[string]bool{"bridge": true}, files: map[string]string{}}
	if files, err := index.resolve([]string{"bridge"}); err != nil || len(files) != 0 {
		t.Errorf("of what is built in: %v, %v", files, err)
	}
	if _, err := index.resolve([]string{"ipvlan"}); err == nil {
		t.Error("a module that is nowhere is no error")
	}
	if got := moduleName("kernel/net/8021q/xt-mark.ko"); got != "xt_mark" {
		t.Error(got)
	}
}

// resultOf is what the lines of a package's tests come to.
func resultOf(kernel, dir, lines string, exit int) *result {
	r := newResult(installed{kernel: named(kernel)})
	for line := range strings.SplitSeq(strings.TrimSpace(lines), "\n") {
		r.add(plan.Event{Run: dir, Line: line})
	}
	r.add(plan.Event{Run: dir, Done: true, Exit: exit})
	return r
}

func named(name string) kernel { return kernel{name: name} }

func TestReport(t *testing.T) {
	packages := []testPackage{{dir: "a", without: []without{{tests: "TestNew", kernels: []string{"5.10"}, why: "needs 6.0"}}}}
	features := []feature{
		{"old", []string{"a.TestOld"}}, {"new", []string{"a.TestOld", "a.TestNew"}}, {"what", []string{"a.TestWhat"}},
	}
	old := resultOf("5.10", "a", `
=== RUN   TestOld
--- PASS: TestOld (0.1s)
=== RUN   TestWhat
=== RUN   TestWhat/part
    a_test.go:10: vm: the older way
--- PASS: TestWhat (0.1s)
    --- PASS: TestWhat/part (0.1s)
`, 0)
	recent := resultOf("6.12", "a", `
=== RUN   TestOld
--- FAIL: TestOld (0.1s)
=== RUN   TestWhat
--- PASS: TestWhat (0.1s)
`, 1)
	var b strings.Builder
	table := lane{packages: packages, features: features}
	if table.report(&b, []*result{old, recent}) {
		t.Error("a failed test is no failure")
	}
	const want = `feature       5.10           6.12
old           yes            FAIL (1)
new           not here (2)   FAIL (1)
what          the older way  yes
tests passed  2 of 2         1 of 2
(1) a.TestOld
(2) needs 6.0
6.12: ./a: exit status 1
6.12: FAIL a.TestOld
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}
	if !table.report(&b, []*result{old}) {
		t.Error("what has passed is a failure")
	}
	// A row whose test did not run proves nothing.
	table.features = append(table.features, feature{"gone", []string{"a.TestGone"}})
	if table.report(&b, []*result{old}) {
		t.Error("a test that did not run is no failure")
	}
}

func TestNoSkippedTestPasses(t *testing.T) {
	if resultOf("6.1", "a", "--- SKIP: TestLazy (0.0s)", 0).green() {
		t.Error("green")
	}
	if resultOf("6.1", "a", "testing: warning: no tests to run", 0).green() {
		t.Error("green without a test")
	}
}

// TestEachPackageRan: with -pkg every package must have run something, also beside one that has.
func TestEachPackageRan(t *testing.T) {
	r := resultOf("6.1", "a", "--- PASS: TestOne (0.0s)", 0)
	r.expect([]testPackage{{dir: "a"}})
	if !r.green() {
		t.Errorf("not green: %v", r.wrong)
	}
	r.expect([]testPackage{{dir: "a"}, {dir: "a/b"}})
	if r.green() || len(r.wrong) != 1 || r.wrong[0] != "./a/b: no test has run" {
		t.Errorf("green with a package that ran nothing: %v", r.wrong)
	}
}

// TestStuckGuest: only what the kernel says of a stuck processor makes a second guest, for the packages that had not ended.
func TestStuckGuest(t *testing.T) {
	console := filepath.Join(t.TempDir(), "console")
	if stuck(console) {
		t.Error("stuck without a console")
	}
	for said, want := range map[string]bool{
		"[  452.678224] watchdog: BUG: soft lockup - CPU#0 stuck for 62s! [nearpath:1923]": true,
		"[  452.678224] Kernel panic - not syncing: Attempted to kill init!":               false,
	} {
		if err := os.WriteFile(console, []byte(said), 0o600); err != nil {
			t.Fatal(err)
		}
		if stuck(console) != want {
			t.Errorf("%q: stuck is %v", said, !want)
		}
	}
	r := resultOf("6.1", "a", "--- PASS: TestOne (0.0s)", 0)
	left := r.left([]built{{testPackage: testPackage{dir: "a"}}, {testPackage: testPackage{dir: "b"}}})
	if len(left) != 1 || left[0].dir != "b" {
		t.Errorf("left are %v", left)
	}
}

// TestAPTIsAlone: nothing of the machine's configuration reaches apt, and every source is held to the keyring.
func TestAPTIsAlone(t *testing.T) {
	for _, archived := range []bool{false, true} {
		a, err := newAPT(t.TempDir(), "bullseye", archived)
		if err != nil {
			t.Fatal(err)
		}
		dump, err := a.run(t.Context(), t.TempDir(), "apt-config", "dump")
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{`Dir::Etc::main "/dev/null";`, `Dir::Etc::parts "/dev/null";`, `APT::Get::AllowUnauthenticated "false";`} {
			if !strings.Contains(dump, want) {
				t.Errorf("apt's configuration lacks %s", want)
			}
		}
		list := sources("bullseye", archived)
		if strings.Count(list, "signed-by="+keyring) != 2 || strings.Contains(list, "archive.debian.org") != archived || strings.Contains(list, "check-valid-until=no") != archived {
			t.Errorf("archived %v: %s", archived, list)
		}
	}
}
