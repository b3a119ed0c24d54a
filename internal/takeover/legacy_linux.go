package takeover

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// errNoTool says that rules of the older kernel interface are there and no program that could change them is.
var errNoTool = errors.New("no iptables of the legacy kind is installed")

// legacyTables are the tables of the older kernel interface that exist in the calling thread's network namespace. To ask
// for one by iptables would make it.
func legacyTables(v6 bool) (names []string) {
	path := "/proc/thread-self/net/ip_tables_names"
	if v6 {
		path = "/proc/thread-self/net/ip6_tables_names"
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil // the kernel has none
	}
	for name := range strings.FieldsSeq(string(text)) {
		if ownChains[name] != nil {
			names = append(names, name)
		}
	}
	return names
}

// legacyTool finds the program that saves or restores tables of the older interface.
func legacyTool(ctx context.Context, v6 bool, verb string) (string, error) {
	family := "iptables"
	if v6 {
		family = "ip6tables"
	}
	if path, err := exec.LookPath(family + "-legacy-" + verb); err == nil {
		return path, nil
	}
	path, err := exec.LookPath(family + "-" + verb)
	if err != nil {
		return "", errNoTool
	}
	version, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil || bytes.Contains(version, []byte("nf_tables")) {
		return "", errNoTool
	}
	return path, nil
}

// readLegacy reads the tables of the older interface, but those of families without a tool.
func readLegacy(ctx context.Context) (out []ruleset, noTool bool, err error) {
	for _, v6 := range []bool{false, true} {
		for _, name := range legacyTables(v6) {
			text, err := saveLegacy(ctx, name, v6)
			if errors.Is(err, errNoTool) {
				noTool = true
				continue
			}
			if err != nil {
				return nil, noTool, err
			}
			out = append(out, parseSave(text, name, v6))
		}
	}
	return out, noTool, nil
}

func saveLegacy(ctx context.Context, table string, v6 bool) (string, error) {
	tool, err := legacyTool(ctx, v6, "save")
	if err != nil {
		return "", err
	}
	text, err := exec.CommandContext(ctx, tool, "-t", table).Output()
	if err != nil {
		return "", fmt.Errorf("%s -t %s: %w", tool, table, err)
	}
	return string(text), nil
}

// parseSave reads what iptables-save prints of one table.
func parseSave(text, name string, v6 bool) ruleset {
	r := ruleset{v6: v6, name: name, chains: map[string]chain{}}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if declared, ok := strings.CutPrefix(line, ":"); ok {
			if f := strings.Fields(declared); len(f) > 1 {
				r.chains[f[0]] = chain{base: f[1] != "-", drops: f[1] == "DROP"}
			}
			continue
		}
		f := words(line)
		if len(f) < 2 || f[0] != "-A" {
			continue
		}
		if to := target(f); to != "" {
			c := r.chains[f[1]]
			c.jumped = append(c.jumped, jump{to: to, line: strings.TrimPrefix(line, "-A ")})
			r.chains[f[1]] = c
		}
	}
	return r
}

// target is where a rule leads.
func target(words []string) string {
	for i, w := range words[:len(words)-1] {
		if w == "-j" || w == "-g" {
			return words[i+1]
		}
	}
	return ""
}

// words splits a rule as iptables-restore does. What stands in quotes, in which a backslash escapes, is one word that keeps
// them: a comment or a prefix of log lines may read like a jump.
func words(line string) (out []string) {
	for line = strings.TrimLeft(line, " "); line != ""; line = strings.TrimLeft(line, " ") {
		end, quoted := 0, false
		for ; end < len(line) && (quoted || line[end] != ' '); end++ {
			switch {
			case line[end] == '"':
				quoted = !quoted
			case line[end] == '\\' && quoted && end+1 < len(line):
				end++
			}
		}
		out, line = append(out, line[:end]), line[end:]
	}
	return out
}

// restoreText is the input of iptables-restore --noflush that carries a removal out, in one transaction.
func (r removal) restoreText() string {
	var b strings.Builder
	fmt.Fprintf(&b, "*%s\n", r.table.name)
	for _, name := range r.chains {
		fmt.Fprintf(&b, ":%s - [0:0]\n", name) // empties it
	}
	for _, jumps := range r.rules {
		for _, j := range jumps {
			fmt.Fprintf(&b, "-D %s\n", j.line)
		}
	}
	for _, name := range r.chains {
		fmt.Fprintf(&b, "-X %s\n", name)
	}
	b.WriteString("COMMIT\n")
	return b.String()
}

// xtablesLock is what programs hold while they change tables of the older interface: iptables-restore reads the whole table,
// changes it and writes it back.
const xtablesLock = "/run/xtables.lock"

// sharesLock reports whether a file here is the same one as below the node's root directory, or will be: in a container it is
// so if the node's file, or its directory, is mounted.
func sharesLock(hostRoot, lock string) bool {
	for _, path := range []string{lock, filepath.Dir(lock)} {
		here, err := os.Stat(path)
		there, errThere := os.Stat(filepath.Join(hostRoot, path))
		if err == nil && errThere == nil {
			return os.SameFile(here, there)
		}
	}
	return false
}

func deleteLegacy(ctx context.Context, r removal) error {
	tool, err := legacyTool(ctx, r.table.v6, "restore")
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, tool, "--noflush", "-w", "5")
	cmd.Stdin = strings.NewReader(r.restoreText())
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s of table %s: %w: %s", tool, r.table.name, err, bytes.TrimSpace(out))
	}
	return nil
}
