//go:build node

package policy

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// A stream asks the same questions over and over, and ends the test's hope at the first outcome that is not as it has to be.
type stream struct {
	from      *place
	questions []question
	allowed   bool
	rounds    atomic.Int64
	wrong     chan error // room for one
}

func (s *stream) run(stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		heard, err := s.from.prober.ask(s.questions)
		if err != nil {
			s.wrong <- err
			return
		}
		if at := slices.Index(heard, !s.allowed); at >= 0 {
			q := s.questions[at]
			s.wrong <- errors.New(s.from.String() + ", " + q.Network + " to " + q.To + ": heard is not as it has to be")
			return
		}
		s.rounds.Add(1)
	}
}

// goesOn waits until every stream has asked some more.
func goesOn(t *testing.T, when string, streams ...*stream) {
	t.Helper()
	const more = 3
	for _, s := range streams {
		for from := s.rounds.Load(); s.rounds.Load() < from+more; {
			select {
			case err := <-s.wrong:
				t.Fatalf("%s: %v", when, err)
			default:
				await(t, "another question", func() error {
					if len(s.wrong) > 0 || s.rounds.Load() >= from+more {
						return nil
					}
					return errors.New("none was asked")
				})
			}
		}
	}
}

// TestAgents has agents of both nodes killed, stopped, upgraded and left without objects, under connections and datagrams that go
// on all the time: who is allowed is heard each time, on connections of before and on new ones, and who is not never is.
func TestAgents(t *testing.T) {
	other := buildOther(t)
	w := newWorld(t)
	w.enforce(t, v1("x", "p", isolateX))
	var (
		allowed = &stream{from: w.find("v/a"), allowed: true, wrong: make(chan error, 1)}
		denied  = &stream{from: w.find("z/a"), wrong: make(chan error, 1)}
		stop    = make(chan struct{})
		all     sync.WaitGroup
	)
	for _, to := range []string{"x/a", "x/b", "x/c"} {
		for family, network := range []string{"tcp", "udp"} {
			q := w.find(to).question(kind{network: network, port: ports[0]}, family)
			denied.questions = append(denied.questions, q)
			q.Timeout = patient
			held := q
			held.Held = true
			allowed.questions = append(allowed.questions, q, held)
		}
	}
	for _, s := range []*stream{allowed, denied} {
		all.Go(func() { s.run(stop) })
	}
	defer all.Wait()
	defer close(stop)
	goesOn(t, "at first", allowed, denied)
	n1, n2 := w.nodes["n1"], w.nodes["n2"]
	began := programs(t, n1.MachinePath("/sys/fs/bpf/nearpath"))

	n1.KillAgent()
	n2.KillAgent()
	goesOn(t, "without agents", allowed, denied)
	ok(t, n1.StartAgent(t.Context()))
	ok(t, n2.StartAgent(t.Context()))
	goesOn(t, "after other agents have come", allowed, denied)

	ok(t, n1.StopAgent())
	goesOn(t, "after an agent was stopped", allowed, denied)
	n1.Use(other)
	ok(t, n1.StartAgent(t.Context()))
	goesOn(t, "after the upgrade", allowed, denied)
	upgraded := programs(t, n1.MachinePath("/sys/fs/bpf/nearpath"))
	for name, before := range began {
		after, there := upgraded[name]
		if !there || after.link != before.link {
			t.Errorf("%s: link %d before, %d after: between the two there may be none", name, before.link, after.link)
		}
		if strings.HasPrefix(name, "from_pod") && after.tag == before.tag {
			t.Errorf("%s: program %s before and after the upgrade", name, after.tag)
		}
	}

	away := w.manifests() + ".away"
	ok(t, os.Rename(w.manifests(), away))
	goesOn(t, "without objects", allowed, denied)
	n1.KillAgent()
	n1.Use(os.Getenv(binEnv))
	started := make(chan error, 1)
	go func() { started <- n1.StartAgent(context.WithoutCancel(t.Context())) }()
	goesOn(t, "with an agent that knows no objects", allowed, denied)
	ok(t, os.Rename(away, w.manifests()))
	ok(t, <-started)
	goesOn(t, "after it has got them", allowed, denied)
	t.Logf("%d times %d questions were answered that may be, %d times %d were not that must not, while agents came and went",
		allowed.rounds.Load(), len(allowed.questions), denied.rounds.Load(), len(denied.questions))
}

// An attached is a program on a link.
type attached struct {
	link link.ID
	tag  string
}

// programs are those of the links that are pinned below a directory, by the links' names.
func programs(t *testing.T, pins string) map[string]attached {
	t.Helper()
	found := map[string]attached{}
	paths, err := filepath.Glob(filepath.Join(pins, "*", "links", "*"))
	ok(t, err)
	for _, path := range paths {
		pinned, err := link.LoadPinnedLink(path, nil)
		ok(t, err)
		about, err := pinned.Info()
		ok(t, errors.Join(err, pinned.Close()))
		program, err := ebpf.NewProgramFromID(about.Program)
		ok(t, err)
		it, err := program.Info()
		ok(t, errors.Join(err, program.Close()))
		found[filepath.Base(path)] = attached{about.ID, it.Tag}
	}
	if len(found) == 0 {
		t.Fatalf("no links are pinned below %s", pins)
	}
	return found
}

// generated is where bpf2go's part of the packet programs is, from here.
const generated = "../../bpf/packet_bpfel.go"

// changed replaces the function that reads the built programs by one that puts an instruction into each, which does nothing. For
// the kernel they are other programs then, with other tags.
const changed = `
func loadPacket() (*ebpf.CollectionSpec, error) {
	spec, err := loadPacketAsBuilt()
	if err != nil {
		return spec, err
	}
	for _, p := range spec.Programs {
		more := asm.Instructions{p.Instructions[0], asm.Mov.Reg(asm.R1, asm.R1)}
		p.Instructions = append(more, p.Instructions[1:]...)
	}
	return spec, nil
}
`

// buildOther builds nearpath with other programs, in a directory of its own.
func buildOther(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	source, err := filepath.Abs(generated)
	ok(t, err)
	text, err := os.ReadFile(source)
	ok(t, err)
	edited := strings.NewReplacer("func loadPacket() ", "func loadPacketAsBuilt() ", "import (", "import (\n\t\"github.com/cilium/ebpf/asm\"").Replace(string(text))
	if !strings.Contains(edited, "loadPacketAsBuilt") {
		t.Fatalf("%s has no loadPacket any more", source)
	}
	file := filepath.Join(dir, "packet.go")
	ok(t, os.WriteFile(file, []byte(edited+changed), 0o644))
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {source: file}})
	ok(t, err)
	list := filepath.Join(dir, "overlay.json")
	ok(t, os.WriteFile(list, overlay, 0o644))
	cmd := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-ldflags=-s -w", "-overlay", list, "-o", dir, "github.com/nearpath/nearpath/cmd/nearpath")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build another agent: %v\n%s", err, out)
	}
	return dir
}
