package podruntime

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// onNode is set where this test is executed to be a runtime.
const onNode = "PODRUNTIME_SERVES"

func TestMain(m *testing.M) {
	if os.Getenv(onNode) == "" {
		os.Exit(m.Run())
	}
	if err := Serve(os.Stdin, os.Stdout); err != nil {
		panic(err)
	}
}

// connect starts a runtime by cmd, a command that executes this test.
func connect(t *testing.T, cmd *exec.Cmd) *Runtime {
	t.Helper()
	cmd.Env = append(os.Environ(), onNode+"=1")
	cmd.Stderr = os.Stderr
	r, err := Connect(cmd, (*exec.Cmd).Start)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(r.Close(), cmd.Wait()); err != nil {
			t.Error(err)
		}
	})
	return r
}

func script(text string) Call {
	return Call{Program: "/bin/sh", Stdin: text, Env: []string{"WORD=hello", "PATH=/usr/bin:/bin"}}
}

func TestRun(t *testing.T) {
	t.Parallel()
	r := connect(t, exec.Command(os.Args[0]))
	got, err := r.Run(t.Context(), Batch{AtATime: 2, Calls: []Call{script("echo $WORD 1"), script("echo $WORD 2"), script("echo $WORD 3")}})
	if err != nil {
		t.Fatal(err)
	}
	if text := strings.Join(got.Outputs, ""); text != "hello 1\nhello 2\nhello 3\n" {
		t.Errorf("outputs are %q", text)
	}
	for i, d := range got.Each {
		if d <= 0 || d > got.Wall {
			t.Errorf("call %d took %v of %v", i, d, got.Wall)
		}
	}
}

// Each of two calls waits for what the other does, so they end only when they run at the same time.
func TestRunAtTheSameTime(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, fifo := range []string{"a", "b"} {
		if out, err := exec.Command("mkfifo", dir+"/"+fifo).CombinedOutput(); err != nil {
			t.Fatal(err, string(out))
		}
	}
	r := connect(t, exec.Command(os.Args[0]))
	_, err := r.Run(t.Context(), Batch{AtATime: 2, Calls: []Call{
		script("echo >" + dir + "/a; read x <" + dir + "/b"), script("read x <" + dir + "/a; echo >" + dir + "/b"),
	}})
	if err != nil {
		t.Error(err)
	}
}

func TestRunFails(t *testing.T) {
	t.Parallel()
	r := connect(t, exec.Command(os.Args[0]))
	_, err := r.Run(t.Context(), Batch{AtATime: 1, Calls: []Call{script("true"), script("echo no address left; exit 3")}})
	if err == nil || !strings.Contains(err.Error(), "no address left") || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("error is %v", err)
	}
	if _, err := r.Run(t.Context(), Batch{AtATime: 1, Calls: []Call{script("true")}}); err != nil {
		t.Errorf("after a failure: %v", err)
	}
}
