package service

import (
	"go/ast"
	"go/build/constraint"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/nearpath/nearpath/internal/service/model"
)

// provenBy names the tests of rows that no single decision of the planner shows, by their packages' directories.
var provenBy = map[string][]string{
	"A8": {"internal/cluster.TestNextWaitsForSync", "internal/cluster.TestAPISourceIsNotSyncedWithoutEveryKind"},
	"B7": {"internal/service.TestSetHostPorts", "bpf.TestHostPortAddress"},
	"C6": {"test/churn.TestChurn"},
	"D6": {"bpf.TestVerdicts", "test/matrix.TestMatrix"},
	"E7": {"internal/takeover.TestTakeOver"},
	"F3": {"bpf.TestAffinityClients", "bpf.TestPinAffinity"},
	"G2": {"bpf.TestReaper", "bpf.TestRepick"},
	"G3": {"bpf.TestReaper"},
	"G4": {"bpf.TestTranslation", "bpf.TestAnswersByENI"},
	"G5": {"bpf.TestErrors", "bpf.TestErrorsOutside", "bpf.TestBulk"},
	"G6": {"internal/service.TestG6NobodySetsConntrack"},
	"H1": {"internal/service.TestHealthCheckNodePort"},
	"H2": {"internal/service.TestHealthz", "internal/service.TestHealthzOfNode"},
	"H3": {"cmd/nearpath.TestMetricsMux"},
	"H4": {"internal/service.TestKubeProxyMetricNames"},
	"H5": {"test/churn.TestChurn"},
	"H6": {"test/churn.TestH6AgentsComeAndGo", "test/crash.TestKilledAgent"},
	"H7": {"test/churn.TestChurn", "bpf.TestReaper"},
	"H8": {"internal/takeover.TestTakeOver", "bpf.TestHandBack"},
}

// TestEveryRowIsProven: each row has a mutation or the name of a test that a lane runs on every machine.
func TestEveryRowIsProven(t *testing.T) {
	t.Parallel()
	broken := map[string]bool{}
	for _, m := range model.Mutations() {
		broken[m.Row()] = true
	}
	for _, row := range model.Rows() {
		if !broken[row.Name] && len(provenBy[row.Name]) == 0 {
			t.Errorf("%s (%s) is proven by nothing", row.Name, row.Says)
		}
		for _, name := range provenBy[row.Name] {
			dir, test, _ := strings.Cut(name, ".")
			if !slices.Contains(testsIn(t, dir), test) {
				t.Errorf("%s is to be proven by %s, and make test runs no such test", row.Name, name)
			}
		}
	}
	for name := range provenBy {
		if model.Says(name) == "" {
			t.Errorf("%s is no row", name)
		}
	}
}

// nodeLane is how make test-node finds the files whose packages it tests.
func nodeLane(t *testing.T) *regexp.Regexp {
	t.Helper()
	text, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	chosen := regexp.MustCompile(`grep -rl .*'(\^//go:build [^']*)'`).FindSubmatch(text)
	if chosen == nil {
		t.Fatal("test-node does not choose packages by their build tags any more")
	}
	return regexp.MustCompile("(?m)" + strings.ReplaceAll(string(chosen[1]), "$$", "$"))
}

// testsIn lists the tests of a package that make test runs: those without build tags, and those of test-node.
func testsIn(t *testing.T, dir string) (names []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("../..", dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	var ofNode []string
	runs, lane := false, nodeLane(t)
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, text, parser.SkipObjectResolution|parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		runs = runs || lane.Match(text)
		always, withNode := tagsOf(t, file)
		for _, decl := range file.Decls {
			f, ok := decl.(*ast.FuncDecl)
			switch {
			case !ok || f.Recv != nil || !strings.HasPrefix(f.Name.Name, "Test"):
			case always:
				names = append(names, f.Name.Name)
			case withNode:
				ofNode = append(ofNode, f.Name.Name)
			}
		}
	}
	if runs {
		names = append(names, ofNode...)
	}
	return names
}

// tagsOf reports whether a file is built without any tag, and with the tag node.
func tagsOf(t *testing.T, file *ast.File) (always, withNode bool) {
	t.Helper()
	always, withNode = true, true
	for _, group := range file.Comments {
		for _, c := range group.List {
			if !constraint.IsGoBuild(c.Text) {
				continue
			}
			expr, err := constraint.Parse(c.Text)
			if err != nil {
				t.Fatal(err)
			}
			with := func(more string) bool {
				return expr.Eval(func(tag string) bool { return tag == "linux" || tag == more })
			}
			return with("linux"), with("node")
		}
	}
	return always, withNode
}

// TestG6NobodySetsConntrack: what kube-proxy has set of nf_conntrack is left as it is, as no program of ours names a setting.
func TestG6NobodySetsConntrack(t *testing.T) {
	t.Parallel()
	n := 0
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "test" || d.Name() == "bench" || d.Name() == "bin" || strings.HasPrefix(d.Name(), ".") && len(d.Name()) > 2) {
			return fs.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		n++
		text, err := os.ReadFile(path)
		for _, setting := range []string{"nf_conntrack_max", "nf_conntrack_tcp", "nf_conntrack_udp", "netfilter/nf_conntrack"} {
			if strings.Contains(string(text), setting) {
				t.Errorf("%s names %s", path, setting)
			}
		}
		return err
	})
	if err != nil || n < 100 {
		t.Errorf("looked at %d files: %v", n, err)
	}
}
