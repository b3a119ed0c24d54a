package aliyun

import (
	"maps"
	"slices"
	"strconv"
)

// params are the parameters of a request.
type params map[string]string

// set leaves out empty values, as the API wants it.
func (p params) set(key, value string) {
	if value != "" {
		p[key] = value
	}
}

// count leaves out zero.
func (p params) count(key string, n int) {
	if n != 0 {
		p[key] = strconv.Itoa(n)
	}
}

// list adds key.1, key.2 and so on.
func (p params) list(key string, values []string) {
	for i, v := range values {
		p.set(key+"."+strconv.Itoa(i+1), v)
	}
}

// tags adds Tag.1.Key, Tag.1.Value and so on, in the order of the keys: one set of tags always gives one request, which
// client tokens rely on.
func (p params) tags(tags map[string]string) {
	for i, k := range sortedKeys(tags) {
		prefix := "Tag." + strconv.Itoa(i+1)
		p.set(prefix+".Key", k)
		p.set(prefix+".Value", tags[k])
	}
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
