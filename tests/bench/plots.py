# SPDX-License-Identifier: ISC
"""Two kinds of plots as SVG, by hand."""

from xml.sax.saxutils import escape

FONT = 'font-family="sans-serif" font-size="12"'
COLOURS = {'ours': ['#d1495b', '#e07a5f', '#b5179e', '#f4a261', '#9d0208', '#ff70a6'],
           'direct': ['#222222', '#7a7a7a'],
           'peer': ['#1d4e89', '#3a86c8', '#2a9d8f', '#7bc8a4', '#6a4c93', '#b8a1d9', '#4a6fa5',
                    '#8fb8de'],
           'bound': ['#c2b280', '#8a7f4f']}
HALO = 'stroke="white" stroke-width="3" paint-order="stroke"'
DASHES = {'direct': '5 3', 'bound': '2 3'}


def _svg(width, height, parts):
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" {FONT}>\n'
            '<rect width="100%" height="100%" fill="white"/>\n'
            + '\n'.join(parts) + '\n</svg>\n')


def _text(x, y, text, anchor='start', extra=''):
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {extra}>'
            f'{escape(str(text))}</text>')


def _line(x1, y1, x2, y2, colour, extra=''):
    return (f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
            f'{extra}/>')


def _ticks(top):
    """Not more than six round steps from 0 to `top`."""
    step = 1e-6
    while step * 6 < top:
        step *= 2.5 if f'{step:e}'[0] == '2' else 2
    return [i * step for i in range(7) if i * step <= top]


def bars(title, unit, rows, model):
    """rows: (name, group, value). model: a value to mark, or None."""
    left, right, top, step = 150, 70, 50, 22
    width, height = 760, top + step * len(rows) + 40
    most = max([value for _, _, value in rows] + [model or 0]) or 1
    ticks = _ticks(most)
    scale = (width - left - right) / most
    bottom = top + step * len(rows)
    parts = [_text(left, 20, title, extra='font-weight="bold"'), _text(left, 38, unit)]
    for tick in ticks:
        parts += [_line(left + tick * scale, top, left + tick * scale, bottom, '#ddd'),
                  _text(left + tick * scale, bottom + 16, f'{tick:g}', 'middle')]
    for i, (_, group, value) in enumerate(rows):
        long = max(value * scale, 1)
        parts.append(f'<rect x="{left}" y="{top + i * step + 3}" width="{long:.1f}" '
                     f'height="{step - 6}" fill="{COLOURS[group][0]}"/>')
    if model is not None:
        parts += [_line(left + model * scale, top - 4, left + model * scale, bottom, '#000',
                        'stroke-dasharray="4 3"'),
                  _text(left + model * scale, bottom + 30, f'the link: {model:.4g}', 'middle')]
    for i, (name, _, value) in enumerate(rows):
        y = top + i * step + 15
        parts += [_text(left - 6, y, name, 'end'),
                  _text(left + value * scale + 5, y, f'{value:.4g}', extra=HALO)]
    return _svg(width, height, parts)


def _legend(x, y, name, colour, dash):
    return [_line(x, y - 4, x + 24, y - 4, colour, f'stroke-width="2" stroke-dasharray="{dash}"'),
            _text(x + 30, y, name)]


def lines(title, x_label, y_label, series, model):
    """series: (name, group, [(x, y)]). model: a y to mark, or None."""
    left, right, top, bottom = 60, 180, 40, 45
    width, height = 860, max(400, 70 + 18 * len(series))
    x_most = max(x for _, _, points in series for x, _ in points) or 1
    y_most = 1.03 * max([y for _, _, points in series for _, y in points] + [model or 0]) or 1
    x_scale = (width - left - right) / x_most
    y_scale = (height - top - bottom) / y_most
    base = height - bottom
    parts = [_text(left, 20, title, extra='font-weight="bold"'), _text(6, 34, y_label),
             _text((left + width - right) / 2, height - 8, x_label, 'middle')]
    for tick in _ticks(x_most):
        parts.append(_text(left + tick * x_scale, base + 16, f'{tick:g}', 'middle'))
    for tick in _ticks(y_most):
        parts += [_line(left, base - tick * y_scale, width - right, base - tick * y_scale, '#ddd'),
                  _text(left - 6, base - tick * y_scale + 4, f'{tick:g}', 'end')]
    if model is not None:
        parts += [_line(left, base - model * y_scale, width - right, base - model * y_scale, '#000',
                        'stroke-dasharray="4 3"')]
    used = {}
    for i, (name, group, points) in enumerate(series):
        colour = COLOURS[group][used.setdefault(group, 0) % len(COLOURS[group])]
        used[group] += 1
        dash = DASHES.get(group, 'none')
        path = ' '.join(f'{left + x * x_scale:.1f},{base - y * y_scale:.1f}' for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2" '
                     f'stroke-dasharray="{dash}"/>')
        parts += _legend(width - right + 12, top + 18 * i + 10, name, colour, dash)
    return _svg(width, height, parts)
