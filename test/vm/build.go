package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// A built is a compiled test package.
type built struct {
	testPackage
	binary string
}

// Made is what a run compiles for its guests, all static.
type made struct {
	root     string // of the module
	init     string
	programs []string // the project's own, when a package wants them
	tests    []built
}

// own are the programs that tests with needsPrograms find in the directory that NEARPATH_BIN names.
var own = []string{"./cmd/nearpath", "./cmd/nearpath-cni", "./test/podapp", "github.com/containernetworking/cni/cnitool"}

// compile builds into dir.
func compile(ctx context.Context, dir string, packages []testPackage) (made, error) {
	root, err := moduleRoot(ctx)
	if err != nil {
		return made{}, err
	}
	m := made{root: root, init: filepath.Join(dir, "init")}
	if err := goRun(ctx, root, "build", "-buildvcs=false", "-ldflags=-s -w", "-o", m.init, "./test/vm/guestinit"); err != nil {
		return made{}, err
	}
	wanted := false
	for _, p := range packages {
		wanted = wanted || p.needsPrograms
		binary := filepath.Join(dir, strings.ReplaceAll(p.dir, "/", "-")+".test")
		err := goRun(ctx, root, "test", "-c", "-buildvcs=false", "-tags=node,vm", "-ldflags=-s -w", "-o", binary, "./"+p.dir)
		if err != nil {
			return made{}, err
		}
		if _, err := os.Stat(binary); err != nil {
			return made{}, fmt.Errorf("package ./%s has no tests", p.dir)
		}
		m.tests = append(m.tests, built{p, binary})
	}
	if !wanted {
		return m, nil
	}
	bin := filepath.Join(dir, "bin") + string(filepath.Separator)
	for _, p := range own {
		m.programs = append(m.programs, filepath.Join(bin, filepath.Base(p)))
	}
	return m, goRun(ctx, root, append([]string{"build", "-buildvcs=false", "-ldflags=-s -w", "-o", bin}, own...)...)
}

// moduleRoot is the directory of the go.mod that the working directory is below.
func moduleRoot(ctx context.Context) (string, error) {
	mod, err := output(exec.CommandContext(ctx, "go", "env", "GOMOD"))
	if err != nil {
		return "", err
	}
	mod = strings.TrimSpace(mod)
	if filepath.Base(mod) != "go.mod" {
		return "", errors.New("run this inside the module")
	}
	return filepath.Dir(mod), nil
}

func goRun(ctx context.Context, root string, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	_, err := output(cmd)
	return err
}
