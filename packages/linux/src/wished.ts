/** What holds as long as somebody wishes it.
 *  @param begin  done at the first wish
 *  @param end  done when nobody wishes it any more
 *  @returns makes a wish, which ends when it is disposed of; repeatable */
export function asLongAsWished(begin: () => void, end: () => void): () => Disposable {
  let wishes = 0;
  return () => {
    wishes += 1;
    if (wishes === 1) begin();
    let over = false;
    return {
      [Symbol.dispose]: () => {
        if (over) return;
        over = true;
        wishes -= 1;
        if (wishes === 0) end();
      },
    };
  };
}
