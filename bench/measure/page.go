package measure

import (
	"bytes"
	"fmt"
	"os"
)

// WriteFigures puts the result's tables and a picture, named as pages link to it, into the page at path, between the
// markers of its benchmark:
//
//	<!-- figures of cni -->
//	<!-- end of figures -->
//
// Everything else stays as it is. A page without the markers is an error: figures are never put where nobody expects
// them.
func (r Result) WriteFigures(path, picture string) error {
	page, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	page, err = r.insert(page, picture)
	if err != nil {
		return fmt.Errorf("write figures into %s: %w", path, err)
	}
	return os.WriteFile(path, page, 0o644)
}

func (r Result) insert(page []byte, picture string) ([]byte, error) {
	first := fmt.Appendf(nil, "<!-- figures of %s -->\n", r.Benchmark)
	before, rest, found := bytes.Cut(page, first)
	_, after, ended := bytes.Cut(rest, []byte(endOfFigures))
	if !found || !ended {
		return nil, fmt.Errorf("it has no line %q with a line %q after it", first, endOfFigures)
	}
	return bytes.Join([][]byte{before, first, fmt.Appendf(nil, "\n![%s](%s)\n\n", r.What, picture), r.markdown(), []byte("\n" + endOfFigures), after}, nil), nil
}

const endOfFigures = "<!-- end of figures -->\n"
