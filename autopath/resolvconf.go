package autopath

import (
	"strconv"
	"strings"
)

// A ResolvConf is what resolv.conf(5) says about searching.
type ResolvConf struct {
	Search []string // as written
	Ndots  int
	// NdotsSet is whether the file has the option; otherwise Ndots is 1, the resolver's default.
	NdotsSet bool
}

// ParseResolvConf reads the text of a resolv.conf. As in resolvers, the last `search` or `domain` line stands, the last
// `ndots` too, a number that is none counts as 0 and one above 15 as 15, comments begin a line, and what is not understood is skipped.
func ParseResolvConf(text string) ResolvConf {
	c := ResolvConf{Ndots: 1}
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) < 2 || line[0] == '#' || line[0] == ';' {
			continue
		}
		switch words[0] {
		case "search":
			c.Search = words[1:]
		case "domain":
			c.Search = words[1:2]
		case "options":
			c.options(words[1:])
		}
	}
	return c
}

func (c *ResolvConf) options(words []string) {
	for _, word := range words {
		if value, ok := strings.CutPrefix(word, "ndots:"); ok {
			c.Ndots, c.NdotsSet = ParseNdots(value), true
		}
	}
}

// ParseNdots reads the value of the option as resolvers do: leading digits count, none are 0, above 15 is 15.
func ParseNdots(value string) int {
	end := 0
	for end < len(value) && '0' <= value[end] && value[end] <= '9' {
		end++
	}
	n, err := strconv.Atoi(value[:end])
	if err != nil && end > 0 {
		return maxNdots // too many digits
	}
	return min(n, maxNdots)
}
