#!/bin/sh
# Writes .dvc/plots/page.html: the page of `dvc plots show` with Vega inside it. DVC's own page loads Vega from a
# content delivery network and stays blank without internet. Needs npm; run it again to move to newer versions.
set -eu
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for package in vega@5.33.1 vega-lite@5.23.0 vega-embed@6.29.0; do
    archive=$(npm pack --silent --pack-destination "$work" "$package")
    name=${package%@*}
    tar -xzf "$work/$archive" -C "$work" "package/build/$name.min.js"
    # The source maps that the last lines name are not here.
    grep -v '^//# sourceMappingURL=' "$work/package/build/$name.min.js" >"$work/$name.js"
done
{
    printf '<!DOCTYPE html>\n<html>\n<head>\n<meta charset="utf-8">\n{refresh_tag}\n<title>Understudy: plots</title>\n'
    printf '<!-- Made by tools/vendor_vega.sh; the licences are in .dvc/plots/LICENSES.txt. -->\n'
    for name in vega vega-lite vega-embed; do
        printf '<script>\n'
        cat "$work/$name.js"
        printf '</script>\n'
    done
    printf '<style>body { font-family: sans-serif } table { border-spacing: 15px }</style>\n'
    printf '</head>\n<body>\n{plot_divs}\n</body>\n</html>\n'
} >.dvc/plots/page.html
