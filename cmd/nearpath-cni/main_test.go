package main

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// The executable starts for every verb of every pod: what it imports is paid each time. A new dependency here must be
// worth that.
func TestImports(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	allowed := []string{
		"github.com/containernetworking/cni/pkg/ns",
		"github.com/containernetworking/cni/pkg/skel",
		"github.com/containernetworking/cni/pkg/types",
		"github.com/containernetworking/cni/pkg/types/020",
		"github.com/containernetworking/cni/pkg/types/040",
		"github.com/containernetworking/cni/pkg/types/100",
		"github.com/containernetworking/cni/pkg/types/create",
		"github.com/containernetworking/cni/pkg/types/internal",
		"github.com/containernetworking/cni/pkg/utils",
		"github.com/containernetworking/cni/pkg/version",
		"github.com/nearpath/nearpath/cmd/nearpath-cni",
		"github.com/nearpath/nearpath/internal/agentapi",
		"github.com/vishvananda/netns",
		"golang.org/x/sys/unix",
	}
	for path := range strings.FieldsSeq(string(out)) {
		if !slices.Contains(allowed, path) {
			t.Errorf("nearpath-cni imports %s", path)
		}
	}
}

// What packages of the standard library do at start is paid, too. Those named do much of it, or bring
// what a program that asks one question has no use for.
func TestStandardImports(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{if .Standard}}{{.ImportPath}}{{end}}", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for path := range strings.FieldsSeq(string(out)) {
		if slices.Contains([]string{"text/template", "html", "html/template", "encoding/xml", "go/build", "net/rpc", "testing", "expvar", "net/http/pprof", "database/sql"}, path) {
			t.Errorf("nearpath-cni imports %s", path)
		}
	}
}
