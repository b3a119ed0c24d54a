package plots

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nearpath/nearpath/bench/measure"
)

func result() measure.Result {
	took := measure.Metric{Name: "took", What: "from the question to the answer", Unit: "us"}
	return measure.Result{Benchmark: "echo", Series: []measure.SeriesResult{{
		Name: "near", Metrics: []measure.Metric{took, {Name: "unknown", What: "nobody has any"}},
		Cases: []measure.CaseResult{
			{Name: "nearpath", Role: measure.Subject, Samples: map[string][][]float64{"took": {{1, 2}, {3}}}},
			{Name: "a <peer>", Role: measure.Peer, Samples: map[string][][]float64{"took": {{40}, {42.5}, {45}}}},
			{Name: "floor", Role: measure.Floor, Samples: map[string][][]float64{"took": {{0}}}},
			{Name: "absent", Role: measure.Peer},
		},
	}}}
}

// texts are the words of a picture, which must be well-formed XML.
func texts(t *testing.T, svg string) (all []string) {
	t.Helper()
	for d := xml.NewDecoder(strings.NewReader(svg)); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		if words, ok := token.(xml.CharData); ok && len(strings.TrimSpace(string(words))) > 0 {
			all = append(all, strings.TrimSpace(string(words)))
		}
	}
}

func TestWrite(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "pictures")
	path, err := Write(result(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(dir, "echo.svg"); path != want {
		t.Errorf("wrote %s, want %s", path, want)
	}
	svg, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	have := strings.Join(texts(t, string(svg)), "|")
	for _, want := range []string{"near: from the question to the answer (us), less is better", "nearpath", "a <peer>", "floor", "2.00", "42.5"} {
		if !strings.Contains(have, want) {
			t.Errorf("%q is not in the picture: %s", want, have)
		}
	}
	if strings.Contains(have, "absent") || strings.Contains(have, "nobody has any") {
		t.Errorf("cases and metrics without samples are in the picture: %s", have)
	}
}

// Two runs that measured the same give the same file, so that pages change only when figures do.
func TestSameResultSamePicture(t *testing.T) {
	t.Parallel()
	var files [2]string
	for i := range files {
		path, err := Write(result(), t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		svg, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		files[i] = string(svg)
	}
	if files[0] != files[1] {
		t.Error("the same result gave two different pictures")
	}
}

func TestNothingMeasured(t *testing.T) {
	t.Parallel()
	path, err := Write(measure.Result{Benchmark: "none"}, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if svg, err := os.ReadFile(path); err != nil || len(texts(t, string(svg))) != 0 {
		t.Errorf("an empty result: %v, %s", err, svg)
	}
}
