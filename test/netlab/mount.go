package netlab

import (
	"fmt"
	"os"
	"strings"
)

// A mount is one line of /proc/self/mountinfo.
type mount struct {
	Point, Type, Source string
}

func readMounts() ([]mount, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	return parseMounts(string(text)), nil
}

// parseMounts reads the format of proc_pid_mountinfo(5); lines it cannot make out are left out.
func parseMounts(text string) []mount {
	var mounts []mount
	for line := range strings.Lines(text) {
		before, after, found := strings.Cut(line, " - ")
		head, tail := strings.Fields(before), strings.Fields(after)
		if !found || len(head) < 5 || len(tail) < 2 {
			continue
		}
		mounts = append(mounts, mount{Point: unescape.Replace(head[4]), Type: tail[0], Source: unescape.Replace(tail[1])})
	}
	return mounts
}

// unescape undoes the octal escapes of mountinfo, which exist for these four characters.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
