//go:build node

package churn

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// generated is where bpf2go's part of the socket programs is, from here.
const generated = "../../bpf/sock_bpfel.go"

// otherEnv makes the agent that is built here one with other programs.
const otherEnv = "NEARPATH_CHURN_OTHER"

// changed replaces the function that reads the built programs by one that puts an instruction into each if it is told to,
// which does nothing. For the kernel they are other programs then, with other tags.
const changed = `
func loadSock() (*ebpf.CollectionSpec, error) {
	spec, err := loadSockAsBuilt()
	if err != nil || os.Getenv("` + otherEnv + `") == "" {
		return spec, err
	}
	for _, p := range spec.Programs {
		more := asm.Instructions{p.Instructions[0], asm.Mov.Reg(asm.R1, asm.R1)}
		p.Instructions = append(more, p.Instructions[1:]...)
	}
	return spec, nil
}
`

// buildAgent builds an agent that is as it is without otherEnv.
func buildAgent(t *testing.T) (program string) {
	t.Helper()
	dir := t.TempDir()
	program = filepath.Join(dir, "nearpath")
	source, err := filepath.Abs(generated)
	ok(t, err)
	text, err := os.ReadFile(source)
	ok(t, err)
	edited := strings.NewReplacer("func loadSock() ", "func loadSockAsBuilt() ", "import (", "import (\n\t\"os\"\n\t\"github.com/cilium/ebpf/asm\"").Replace(string(text))
	if !strings.Contains(edited, "loadSockAsBuilt") {
		t.Fatalf("%s has no loadSock any more", source)
	}
	file := filepath.Join(dir, "sock_bpfel.go")
	ok(t, os.WriteFile(file, []byte(edited+changed), 0o644))
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {source: file}})
	ok(t, err)
	list := filepath.Join(dir, "overlay.json")
	ok(t, os.WriteFile(list, overlay, 0o644))
	build := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-o", program, "-overlay", list, "github.com/nearpath/nearpath/cmd/nearpath")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the agent: %v\n%s", err, out)
	}
	return program
}
